"""What a manifest lists, however its rows are spelled, and what is said about its columns."""

from __future__ import annotations

import gzip
import unicodedata
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from unsquare.errors import SourceError
from unsquare.index import ShapeIndex, csv_table, scan_source

NFC, NFD = (unicodedata.normalize(form, "café") for form in ("NFC", "NFD"))
FOUR = ("cat/0.jpg,cat", "cat/1.jpg,cat", "dog/0.jpg,dog", "dog/1.jpg,dog")


@pytest.fixture
def listed(make_folder):
    """A function that writes a manifest beside the pictures cat/0, cat/1, dog/0 and dog/1, and reads it."""
    root = make_folder(num_images=2)

    def read(*rows: str, header: str = "path,label") -> ShapeIndex:
        text = "\n".join((header, *rows)).replace("ROOT", str(root)) + "\n"
        (root / "list.csv").write_text(text, encoding="utf-8")
        return scan_source(root / "list.csv")

    return read


@pytest.mark.parametrize("name", ["group", "Patient_ID", "sender", "object", "subject"])
def test_groups_are_read(listed, name: str) -> None:
    """From a column of any of their names; a blank cell is no group, and only groups of several images are told."""
    index = listed(*(f"{row},{group}" for row, group in zip(FOUR, ("7", "", "7", "8"))), header=f"path,label,{name}")
    assert index.groups.tolist() == ["7", "", "7", "8"]
    assert text_of(index, "groups") == f"1 group of several images by the column '{name}', kept in one split each."


def text_of(index: ShapeIndex, kind: str) -> str:
    """The note of a kind."""
    return next(note.text for note in index.notes if note.kind == kind)


def test_a_plain_manifest_has_nothing_to_say(listed) -> None:
    """Known columns, files that are there: no notes. pandas' row numbers are no column of anybody."""
    assert listed(*FOUR).notes == ()
    assert listed(*(f"{i},{row},train" for i, row in enumerate(FOUR)), header=",path,label,split").notes == ()


@pytest.mark.parametrize(
    "written",
    [
        "cat//0.jpg",
        "./cat/0.jpg",
        "cat/./0.jpg",
        "dog/../cat/0.jpg",
        "ROOT/cat/0.jpg",
        "../pictures/cat/0.jpg",
        "cat\\0.jpg",
    ],
)
def test_one_picture_in_two_spellings_is_refused_by_both(listed, written: str) -> None:
    """Every spelling is read as the picture's one key; listed beside another, both spellings and rows are named."""
    assert listed(f"{written},cat", *FOUR[1:]).keys.tolist() == [row.split(",")[0] for row in FOUR]
    with pytest.raises(SourceError, match=r"listed again, first .*0\.jpg' \(as 'cat/0\.jpg' too\) in rows 1 and 2"):
        listed(f"{written},cat", *FOUR)
    with pytest.raises(SourceError, match="with the labels 'owl' and 'cat'"):
        listed(f"{written},owl", *FOUR)


def test_outside_the_folder_spellings_are_one_too(make_folder, tmp_path: Path) -> None:
    """A picture elsewhere, by a relative and by an absolute path, is listed twice."""
    other = make_folder(name="other", num_images=1)
    lists = make_folder(name="lists", num_images=1)
    (lists / "a.csv").write_text(f"path,label\n../other/cat/0.jpg,a\n{other}/cat/0.jpg,b\n")
    with pytest.raises(SourceError, match="listed again"):
        scan_source(lists / "a.csv")


def test_backslashes_are_said(listed) -> None:
    """Paths of Windows are read, and how many is said; an absolute one gets a hint."""
    index = listed(*(row.replace("/", "\\") for row in FOUR))
    assert index.problems == ()
    assert text_of(index, "backslashes").startswith("4 paths read with / instead of \\: 'cat\\0.jpg'")
    assert "absolute Windows paths" in text_of(listed("D:\\x\\0.jpg,cat"), "missing")


def test_missing_files_are_said_with_a_hint(listed, monkeypatch: pytest.MonkeyPatch, make_folder) -> None:
    """That all are missing, where paths start, and what else may be wrong: the case, or the folder worked in."""
    assert "None of the manifest's files exist; relative paths start at" in text_of(listed("x/0.jpg,cat"), "missing")
    assert "case matters ('0.jpg' exists)" in text_of(listed("cat/0.JPG,cat", FOUR[2]), "missing")
    monkeypatch.chdir(make_folder(("owl",), name="elsewhere"))
    assert "they exist below" in text_of(listed("owl/0.jpg,cat"), "missing")


def test_labels_in_two_unicode_forms_are_one_class(listed) -> None:
    """A label typed in one form and one pasted in the other."""
    assert listed(f"cat/0.jpg,{NFC}", f"cat/1.jpg,{NFD}", FOUR[2]).classes == (NFC, "dog")


@pytest.mark.parametrize("labels", [("NA", "null"), ("None", "nan"), ("007", "7"), ("true", "1.0")])
def test_labels_stay_text(listed, labels: tuple[str, str]) -> None:
    """Words that other programs take for gaps or numbers are classes."""
    assert set(listed(*(f"cat/{i}.jpg,{label}" for i, label in enumerate(labels))).classes) == set(labels)


@pytest.mark.parametrize(
    ("header", "words"),
    [
        ("path,label,fold", "1 column not used: 'fold' (used: path, label)."),
        ("path,lable,fold", "2 columns not used: 'lable', 'fold' (used: path); is 'lable' meant as 'label'?"),
        ("path,Klass,width", "not used: 'Klass', 'width'"),
        ("path,file,label", "1 column not used: 'file'"),
        (" PATH ,Label,Splits", "(used: PATH, Label); is 'Splits' meant as 'split'?"),
    ],
)
def test_columns_that_are_not_used_are_said(listed, header: str, words: str) -> None:
    """What nobody reads is named, with the name that may be meant."""
    index = listed("cat/0.jpg,cat,1", header=header)
    assert words in text_of(index, "unused_column")
    assert next(note for note in index.notes).important


@pytest.mark.parametrize(
    ("header", "message"),
    [
        ("filepath,label", "its columns are: filepath, label; rename 'filepath'"),
        ("id,image_path", "rename 'image_path'"),
        ("cat/0.jpg,cat", "its first row must name the columns"),
        ("a,b", r"its columns are: a, b\.$"),
        (",", "is empty"),
    ],
)
def test_a_missing_column_is_answered_with_the_nearest(listed, header: str, message: str) -> None:
    """The error says what there is, and what to rename."""
    with pytest.raises(SourceError, match=message):
        listed(FOUR[0], header=header)


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
def test_the_delimiter_is_the_one_that_shows_a_path(listed, delimiter: str) -> None:
    """Other marks in names of columns mislead nobody."""
    header = delimiter.join(("a;b" if delimiter != ";" else "a,b", "path", "label"))
    index = listed(delimiter.join(("x", "cat/0.jpg", "cat")), header=header)
    assert (index.keys.tolist(), index.classes) == (["cat/0.jpg"], ("cat",))


def test_sizes_are_trusted_but_files_must_be_there(listed) -> None:
    """With sizes nothing is opened, but where the files are at hand each is looked for, and its length noted."""
    rows = [f"{row},90,80" for row in (*FOUR[:3], "dog/9.jpg,dog", "dog,dog")]
    index = listed(*rows, header="path,label,width,height")
    assert index.sizes.tolist() == [[80, 90]] * 3
    assert index.num_bytes.min() > 0
    reasons = [(problem.key, problem.reason) for problem in index.problems]
    assert reasons == [("dog", "is a folder, not a file"), ("dog/9.jpg", "does not exist")]


PATHS = ["a.jpg", "b.jpg"]


@pytest.mark.parametrize(
    ("columns", "classes"),
    [
        ({"path": pa.array(PATHS).dictionary_encode(), "label": pa.array(["x", "y"], pa.large_string())}, ("x", "y")),
        ({"path": pa.array([b"a.jpg", b"b.jpg"]), "label": pa.array([1, 0])}, ("0", "1")),
        ({"path": pa.array(PATHS), "label": pa.array([1.0, float("nan")])}, ("1",)),
        ({"path": pa.array(PATHS), "label": pa.array([7, 7]).dictionary_encode()}, ("7",)),
        ({"path": pa.array(PATHS), "label": pa.nulls(2)}, ()),
    ],
)
def test_parquet_columns_of_many_types(tmp_path: Path, columns: dict[str, pa.Array], classes: tuple[str, ...]) -> None:
    """Dictionaries, bytes, numbers, pandas' gaps and nulls."""
    pq.write_table(pa.table(columns), tmp_path / "a.parquet")
    assert scan_source(tmp_path / "a.parquet").classes == classes


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"path": pa.array([["a.jpg"], ["b.jpg"]])}, "must hold plain text or numbers, but is of type list"),
        ({"image": pa.array([{"bytes": b"x"}] * 2), "label": pa.array([0, 1])}, "plain text or numbers"),
        ({"path": pa.array(PATHS), "label": pa.array([[0], [1]])}, "column 'label' must hold plain text"),
        ({"path": pa.array([b"\xff", b"a"])}, "plain text"),
        ({"path": pa.array(["a.jpg", None])}, "Row 2 of .* has no path"),
        ({"picture": pa.array(PATHS)}, "needs a column 'path'"),
    ],
)
def test_parquet_columns_that_make_no_sense(tmp_path: Path, columns: dict[str, pa.Array], message: str) -> None:
    """One sentence for each."""
    pq.write_table(pa.table(columns), tmp_path / "a.parquet")
    with pytest.raises(SourceError, match=message):
        scan_source(tmp_path / "a.parquet")


def test_folders_with_equal_signs_make_no_columns(tmp_path: Path) -> None:
    """A manifest below `label=x` is not thereby labeled, nor is an index."""
    folder = tmp_path / "label=x"
    folder.mkdir()
    pq.write_table(pa.table({"path": PATHS}), folder / "a.parquet")
    index = scan_source(folder / "a.parquet")
    assert index.classes == ()
    index.write(folder / "i.parquet")
    assert ShapeIndex.read(folder / "i.parquet").classes == ()


@pytest.mark.parametrize("name", ["cr_only.csv", "backslash.csv", "na_label.csv"])
def test_the_lists_at_hand_are_read(shared_data: Path, make_folder, name: str) -> None:
    """Line ends of old Macs, paths of Windows and a class called NA, with their pictures beside them."""
    make_folder(("train/cat", "train/dog"), num_images=10, name="fold")
    lists = make_folder(("x",), num_images=1, name="lists")
    (lists / name).write_bytes((shared_data / "cases/csv" / name).read_bytes())
    index = scan_source(lists / name)
    assert len(index) == 20
    assert index.classes == (("NA", "null") if name == "na_label.csv" else ("cat", "dog"))


def test_sizes_that_an_index_cannot_keep_are_refused(listed, tmp_path: Path) -> None:
    """What a manifest may say can be written and read again."""
    header = "path,label,width,height"
    longest = 1 << 30
    listed(f"cat/0.jpg,cat,{longest},1", header=header).write(tmp_path / "index.parquet")
    assert ShapeIndex.read(tmp_path / "index.parquet").sizes.tolist() == [[1, longest]]
    with pytest.raises(SourceError, match=r"not a whole number from 1 to 1,073,741,824"):
        listed(f"cat/0.jpg,cat,{longest + 1},1", header=header)


def test_orientations_are_numbers_of_exif(listed) -> None:
    """Six is six as pandas writes it, too; words are refused, since sizes would be taken unturned."""
    header = "path,label,width,height,orientation"
    for said, shape in (("6", [30, 20]), ("6.0", [30, 20]), ("1.0", [20, 30]), ("0", [20, 30]), ("", [20, 30])):
        assert listed(f"cat/0.jpg,cat,30,20,{said}", header=header).sizes.tolist() == [shape]
    for said in ("Rotate 90 CW", "9", "nan", "1.5"):
        with pytest.raises(SourceError, match=f"Row 1 of .* has the orientation '{said}'"):
            listed(f"cat/0.jpg,cat,30,20,{said}", header=header)


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
@pytest.mark.parametrize(
    ("names", "message"),
    [
        (
            ["path", "path", "label"],
            r"one column 'path', but '.*' has 2 \('path', 'path'\); remove or rename all but one",
        ),
        (["path", " Path", "label"], r"one column 'path', but '.*' has 2 \('path', ' Path'\)"),
        (["path", "label", "LABEL"], r"one column 'label', but '.*' has 2 \('label', 'LABEL'\)"),
    ],
)
def test_two_columns_of_one_name_are_refused(make_folder, suffix: str, names: list[str], message: str) -> None:
    """Which of them counts would be a guess; twice what nobody reads is no matter."""
    root = make_folder(num_images=1)
    cells = {"path": "cat/0.jpg", "label": "cat"}
    row = [cells[name.strip().lower()] for name in names]

    def write(names: list[str], row: list[str]) -> Path:
        path = root / f"list.{suffix}"
        if suffix == "csv":
            path.write_text(",".join(names) + "\n" + ",".join(row) + "\n")
        else:
            pq.write_table(pa.Table.from_arrays([pa.array([cell]) for cell in row], names=names), path)
        return path

    with pytest.raises(SourceError, match=message):
        scan_source(write(names, row))
    assert len(scan_source(write(["path", "label", "x", "x"], ["cat/0.jpg", "cat", "1", "2"]))) == 1


@pytest.mark.parametrize("suffix", ["csv", "tsv.gz"])
def test_rows_of_a_csv_are_bounded(listed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str) -> None:
    """More rows than are read are refused while they are counted, and as many as are read are read."""
    monkeypatch.setattr(csv_table, "MOST_ROWS", 4)
    monkeypatch.setattr(csv_table, "_BATCH_CELLS", 2)
    assert len(listed(*FOUR)) == 4
    data = ("path\tlabel\n" + "a.jpg\tb\n" * 1000).encode()
    path = tmp_path / f"many.{suffix}"
    path.write_bytes(gzip.compress(data) if suffix.endswith("gz") else data)
    with pytest.raises(SourceError, match=r"it has 5 rows, but at most 4 are read; list fewer pictures\."):
        scan_source(path)


def test_a_long_csv_is_refused_before_it_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its length says enough; of a compressed one, what it unpacks to."""
    monkeypatch.setattr(csv_table, "MOST_BYTES", 1000)
    data = b"path,label\n" + b"a.jpg,b\n" * 1000
    (tmp_path / "a.csv").write_bytes(data)
    with pytest.raises(SourceError, match=r"it has 8,011 bytes to read, but at most 1,000 are"):
        scan_source(tmp_path / "a.csv")
    (tmp_path / "a.csv.gz").write_bytes(gzip.compress(data))
    with pytest.raises(SourceError, match=r"it has more than 1,000 bytes"):
        scan_source(tmp_path / "a.csv.gz")


def test_rows_of_a_parquet_are_bounded_before_they_are_read(tmp_path: Path) -> None:
    """Ten million rows in a small file, too many, are refused by the file's own account."""
    path = tmp_path / "a.parquet"
    rows = pa.DictionaryArray.from_arrays(np.zeros(10_000_001, np.int8), ["a.jpg"])
    pq.write_table(pa.table({"path": rows, "label": rows}), path)
    assert path.stat().st_size < 100_000
    with pytest.raises(SourceError, match="it has 10,000,001 rows, but at most 10,000,000 are read"):
        scan_source(path)


def test_texts_of_a_parquet_are_bounded_before_they_are_written_out(tmp_path: Path) -> None:
    """A long text that each row points at is counted in each."""
    path = tmp_path / "a.parquet"
    rows = pa.DictionaryArray.from_arrays(np.zeros(500_000, np.int8), ["a" * 10_000])
    pq.write_table(pa.table({"path": rows}), path)
    with pytest.raises(SourceError, match=r"it has 5,000,000,000 bytes to read, but at most 1,073,741,824 are"):
        scan_source(path)


def test_other_columns_of_a_parquet_are_not_read(make_folder, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pictures in the table itself, however many bytes, count for nothing."""
    root = make_folder(num_images=1)
    monkeypatch.setattr(csv_table, "MOST_BYTES", 1000)
    table = pa.table({"image.bytes": [bytes(10_000)] * 2, "path": ["cat/0.jpg", "dog/0.jpg"], "label": ["cat", "dog"]})
    pq.write_table(table, root / "list.parquet")
    assert scan_source(root / "list.parquet").classes == ("cat", "dog")
