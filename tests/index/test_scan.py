"""From sources to indexes."""

from __future__ import annotations

import gzip
import os
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from unsquare.errors import SourceError
from unsquare.index import ShapeIndex, scan, scan_source

COLUMNS = ("keys", "sizes", "labels", "splits", "num_bytes", "modified_ns")


def assert_same(one: ShapeIndex, other: ShapeIndex) -> None:
    """Every column, and all else, is equal."""
    for column in COLUMNS:
        np.testing.assert_array_equal(getattr(one, column), getattr(other, column), err_msg=column)
    assert (one.root, one.classes, one.problems) == (other.root, other.classes, other.problems)


def labels_of(index: ShapeIndex) -> list[str]:
    """The class name of each row, "" where there is none."""
    return [index.classes[label] if label >= 0 else "" for label in index.labels]


def test_classes_are_the_folders(make_folder) -> None:
    """Each class folder is a class; keys are sorted relative paths; sizes are those of the files."""
    root = make_folder({"dog": 2, "cat": 3})
    index = scan_source(root)
    assert index.classes == ("cat", "dog")
    assert index.keys.tolist() == ["cat/0.jpg", "cat/1.jpg", "cat/2.jpg", "dog/0.jpg", "dog/1.jpg"]
    assert labels_of(index) == ["cat"] * 3 + ["dog"] * 2
    assert set(index.splits) == {""}
    for row in range(len(index)):
        with Image.open(index.path(row)) as image:
            assert index.sizes[row].tolist() == [image.height, image.width]
        assert index.num_bytes[row] == index.path(row).stat().st_size


@pytest.mark.parametrize("val", ["val", "valid", "validation", "Val"])
def test_split_folders_stand_above_class_folders(make_folder, val: str) -> None:
    """train, val and test above the classes become the splits, under their usual names."""
    index = scan_source(make_folder(num_images=1, splits=("train", val, "test")))
    assert sorted(set(index.splits)) == ["test", "train", "val"]
    assert index.classes == ("cat", "dog")
    assert len(index) == 6


def test_deeper_folders_belong_to_their_class(make_folder) -> None:
    """Folders inside a class folder make no classes of their own."""
    root = make_folder(num_images=1)
    (root / "cat/more/yet").mkdir(parents=True)
    (root / "cat/0.jpg").rename(root / "cat/more/yet/0.jpg")
    index = scan_source(root)
    assert index.keys.tolist() == ["cat/more/yet/0.jpg", "dog/0.jpg"]
    assert labels_of(index) == ["cat", "dog"]


def test_a_split_beside_a_class_is_ambiguous(make_folder) -> None:
    """A training folder beside a folder that is no split is refused by name."""
    root = make_folder(("train", "zebra"), num_images=1)
    with pytest.raises(SourceError, match="'zebra', which is not a split"):
        scan_source(root)


def test_images_without_class_folders_have_no_label(make_folder) -> None:
    """A flat folder can be planned, though not trained on: its rows have no label."""
    index = scan_source(make_folder(("",), num_images=3))
    assert index.labels.tolist() == [-1] * 3
    assert index.classes == ()


def test_other_files_are_passed_over(make_folder) -> None:
    """Neither notes nor hidden folders nor what archivers leave are listed; an image without a suffix is."""
    root = make_folder(num_images=1)
    (root / "README.md").write_text("notes")
    (root / "cat/notes.txt").write_text("notes")
    (root / "cat/labels.json").write_text("{}")
    for name in (".cache", "__MACOSX"):
        (root / name).mkdir()
        (root / name / "0.jpg").write_bytes(b"")
    (root / "cat/0.jpg").rename(root / "cat/0")
    index = scan_source(root)
    assert index.keys.tolist() == ["cat/0", "dog/0.jpg"]
    assert index.problems == ()


def test_what_is_called_an_image_is_never_passed_over(make_folder) -> None:
    """Files with an image's name that cannot be read are problems, with reason, label, length and time."""
    root = make_folder(num_images=1)
    (root / "cat/empty.PNG").write_bytes(b"")
    (root / "cat/page.jpg").write_text("<html>")
    (root / "dog/lost.jpg").symlink_to("nowhere.jpg")
    (root / "dog/folder.jpg").mkdir()
    os.mkfifo(root / "dog/pipe.jpg")
    index = scan_source(root)
    assert [(p.key, p.reason) for p in index.problems] == [
        ("cat/empty.PNG", "is empty"),
        ("cat/page.jpg", "is an HTML page, not an image"),
        ("dog/lost.jpg", "does not exist"),
        ("dog/pipe.jpg", "is not a regular file"),
    ]
    assert [index.classes[problem.label] for problem in index.problems] == ["cat", "cat", "dog", "dog"]
    assert index.problems[1].num_bytes == 6
    assert len(index) == 2


def test_links_are_followed_but_not_in_circles(make_folder) -> None:
    """A linked class folder counts; a link to a folder above it does not hang the scan."""
    root = make_folder(num_images=1)
    other = make_folder(("owl",), num_images=2, name="other")
    (root / "owl").symlink_to(other / "owl")
    (root / "cat/up").symlink_to(root)
    assert labels_of(scan_source(root)) == ["cat", "dog", "owl", "owl"]


def test_a_name_that_is_not_utf8_is_a_problem(make_folder, tmp_path: Path) -> None:
    """Such a name cannot be stored; the problem spells it out and the index can still be written."""
    root = make_folder(num_images=1)
    os.rename(os.fsencode(root / "cat/0.jpg"), os.fsencode(root / "cat") + b"/caf\xe9.jpg")
    index = scan_source(root)
    assert [(p.key, p.reason) for p in index.problems] == [
        ("cat/caf\\udce9.jpg", "has a name that is not UTF-8; rename it")
    ]
    index.write(tmp_path / "index.parquet")
    assert_same(ShapeIndex.read(tmp_path / "index.parquet"), index)


@pytest.mark.parametrize("workers", [1, 2, 7])
def test_the_index_does_not_depend_on_the_number_of_workers(make_folder, workers: int) -> None:
    """One thread and many give the same index."""
    root = make_folder(num_images=9)
    assert_same(scan_source(root, workers=workers), scan_source(root))


def test_only_new_and_changed_files_are_read(make_folder) -> None:
    """With an earlier index, a file of the same length and time is not opened again, good or bad."""
    root = make_folder(num_images=3)
    (root / "cat/bad.jpg").write_bytes(b"bad")
    first = scan(root)
    assert (first.num_read, first.num_reused) == (7, 0)
    again = scan(root, previous=first.index)
    assert (again.num_read, again.num_reused) == (0, 7)
    assert_same(again.index, first.index)

    Image.new("RGB", (5, 7)).save(root / "cat/0.jpg")
    Image.new("RGB", (5, 7)).save(root / "dog/new.jpg")
    (root / "dog/1.jpg").unlink()
    third = scan(root, previous=first.index)
    assert (third.num_read, third.num_reused) == (2, 5)
    assert_same(third.index, scan_source(root))


def test_a_file_that_could_not_be_opened_is_tried_again(make_folder) -> None:
    """A link that leads nowhere leaves no time behind, so it is read once its file is there."""
    root = make_folder(num_images=1)
    (root / "cat/late.jpg").symlink_to(root / "hidden")
    first = scan_source(root)
    assert first.problems[0].modified_ns == 0
    Image.new("RGB", (5, 7)).save(root / "hidden", format="jpeg")
    assert not scan_source(root / "cat", previous=first).problems


def test_progress_counts_every_file(make_folder) -> None:
    """The callback hears of each file once, in order, with the total."""
    heard = []
    scan_source(make_folder(num_images=3), progress=lambda done, total: heard.append((done, total)))
    assert heard == [(i + 1, 6) for i in range(6)]


def test_sources_that_are_none(tmp_path: Path) -> None:
    """An empty folder, a missing one and a file of another kind each get one sentence with what is accepted."""
    with pytest.raises(SourceError, match="No images were found"):
        scan_source(tmp_path)
    with pytest.raises(SourceError, match="does not exist"):
        scan_source(tmp_path / "missing")
    (tmp_path / "a.tar").write_bytes(b"")
    with pytest.raises(SourceError, match=r"a\.tar' is not a source that can be read; give a folder"):
        scan_source(tmp_path / "a.tar")


def test_a_written_index_is_a_source(make_folder, tmp_path: Path) -> None:
    """An index made earlier is read, without looking at the files."""
    index = scan_source(make_folder())
    index.write(tmp_path / "index.parquet")
    result = scan(tmp_path / "index.parquet")
    assert_same(result.index, index)
    assert result.num_read == 0


def write_csv(path: Path, *lines: str) -> Path:
    """A text file of these lines."""
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def test_a_manifest_names_files_beside_it(make_folder) -> None:
    """Paths of a manifest start at its folder; labels and splits are its columns; files are measured."""
    root = make_folder(num_images=1)
    lines = ("split,path,label", "train,cat/0.jpg,007", "valid,dog/0.jpg,NA", "test,dog/none.jpg,NA")
    index = scan_source(write_csv(root / "list.csv", *lines))
    assert index.keys.tolist() == ["cat/0.jpg", "dog/0.jpg"]
    assert index.classes == ("007", "NA")
    assert index.splits.tolist() == ["train", "val"]
    assert index.sizes.tolist() == scan_source(root).sizes.tolist()
    assert [(problem.key, problem.reason) for problem in index.problems] == [("dog/none.jpg", "does not exist")]


def test_absolute_paths_and_parents_are_followed(make_folder, tmp_path: Path) -> None:
    """A manifest's paths mean what they say."""
    root = make_folder(num_images=1)
    (tmp_path / "lists").mkdir()
    absolute = (root / "dog/0.jpg").as_posix()
    index = scan_source(write_csv(tmp_path / "lists/a.csv", "file,class", "../pictures/cat/0.jpg,a", f"{absolute},b"))
    assert len(index) == 2
    assert all(index.path(row).is_file() for row in range(2))


def test_sizes_in_a_manifest_are_trusted(tmp_path: Path) -> None:
    """With width and height no file is opened; where there are no files at all, the root is empty."""
    lines = ("Image,Width,Height,Label", "b.jpg,30.0,20,x", "a.jpg,7,9,")
    index = scan_source(write_csv(tmp_path / "a.csv", *lines))
    assert index.sizes.tolist() == [[9, 7], [20, 30]]
    assert labels_of(index) == ["", "x"]
    assert index.root == ""


def test_stored_sizes_are_turned_by_their_orientation(tmp_path: Path) -> None:
    """A column of EXIF orientations says that the sizes are as stored."""
    lines = ("path,width,height,exif_orientation", "a.jpg,30,20,6", "b.jpg,30,20,", "c.jpg,30,20,3")
    index = scan_source(write_csv(tmp_path / "a.csv", *lines))
    assert index.sizes.tolist() == [[30, 20], [20, 30], [20, 30]]


def test_a_byte_order_mark_hides_no_column(tmp_path: Path) -> None:
    """The first column's name is what follows the mark."""
    index = scan_source(write_csv(tmp_path / "a.csv", "\ufeffpath,Label,width,height", "a,x,3,4"))
    assert index.keys.tolist() == ["a"]


@pytest.mark.parametrize("kind", ["csv.gz", "parquet"])
def test_manifests_may_be_compressed(tmp_path: Path, kind: str) -> None:
    """Gzip CSV and Parquet manifests say the same as plain CSV."""
    path = tmp_path / f"a.{kind}"
    if kind == "parquet":
        labels = pa.array(["x", None]).dictionary_encode()
        pq.write_table(pa.table({"path": ["b", "a"], "label": labels, "width": [3, 5], "height": [4, 6]}), path)
    else:
        path.write_bytes(gzip.compress(b"path,label,width,height\r\nb,x,3,4\r\na,,5,6\r\n"))
    index = scan_source(path)
    assert index.keys.tolist() == ["a", "b"]
    assert index.sizes.tolist() == [[6, 5], [4, 3]]
    assert labels_of(index) == ["", "x"]


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (("name,label", "a,b"), "needs a column 'path'.*its columns are: name, label"),
        (("path,label",), "lists no images"),
        (("path,label", "a,x", ",y"), "Row 2 of .* has no path"),
        (("path,label", "a,x", "a,y"), "listed only once, but 1 are listed again, first 'a'"),
        (("path,split", "a,train", "b,dev"), "Row 2 of .* has the split 'dev'; it must be train, val, test"),
        (
            ("path,width,height", "a,3,4", "b,0,4"),
            "Row 2 of .* has the width '0', which is not a whole number",
        ),
        (("path,width,height", "a,3,tall"), "Row 1 of .* has the height 'tall'"),
        (("path,label", "a,b,c"), "cannot be read"),
    ],
)
def test_a_bad_manifest_says_where(tmp_path: Path, lines: tuple[str, ...], message: str) -> None:
    """The error names the row, the column and what was found there."""
    with pytest.raises(SourceError, match=message):
        scan_source(write_csv(tmp_path / "a.csv", *lines))


MAME_HEADER = "Image file,Medium,Museum,Museum-based instance ID,Subset,Width,Height,Product size,Aspect ratio"


def test_mame_in_its_official_layout(make_folder) -> None:
    """With the images there, in whatever folder, they are measured; of two versions the larger is taken."""
    root = make_folder({"data_256": 2, "data": 2})
    for i in range(2):
        Image.effect_noise((90, 80), 50).save(root / f"data/{i}.jpg")
    lines = ("0.jpg,Oil on canvas,Met,1,train,3144.0,3840.0,1,0.8", "1.jpg,Bronze,Met,2,val,1.0,2.0,2,0.5")
    write_csv(root / "MAMe_dataset.csv", MAME_HEADER, *lines)
    index = scan_source(root)
    assert index.keys.tolist() == ["data/0.jpg", "data/1.jpg"]
    assert index.sizes.tolist() == [[80, 90], [80, 90]]
    assert labels_of(index) == ["Oil on canvas", "Bronze"]
    assert index.splits.tolist() == ["train", "val"]


def test_the_metadata_of_mame_alone_give_its_shapes(shared_data: Path) -> None:
    """The official table indexes 37,407 shapes of 29 classes, from the folder as from the file."""
    index = scan_source(shared_data / "mame/MAMe_dataset.csv")
    assert len(index) == 37_407
    assert len(index.classes) == 29
    assert sorted(set(index.splits)) == ["test", "train", "val"]
    assert index.sizes.prod(axis=1).max() > 373_000_000 - 1_000_000
    assert_same(scan_source(shared_data / "mame"), index)


def test_lists_of_shapes_are_manifests(shared_data: Path) -> None:
    """The real shape lists index as they are."""
    for path in sorted((shared_data / "shapes").glob("*.csv.gz")):
        index = scan_source(path)
        assert len(index) > 500
        assert index.sizes.min() >= 1


def test_real_photographs_agree_with_their_manifest(shared_data: Path) -> None:
    """Scanning the folder finds the sizes and labels that the manifest beside it lists."""
    for name in ("food", "clothing"):
        folder = shared_data / "photos" / name
        measured, listed = scan_source(folder), scan_source(folder / "manifest.csv")
        for column in ("keys", "sizes", "labels", "splits"):
            np.testing.assert_array_equal(getattr(measured, column), getattr(listed, column), err_msg=column)


def test_every_awkward_file_is_indexed_or_listed(shared_data: Path) -> None:
    """Nothing that is called an image is lost but hidden files, which are named; the same scan twice reads nothing."""
    result = scan(shared_data / "awkward")
    found = {*result.index.keys, *(problem.key for problem in result.index.problems)}
    there = {path.relative_to(shared_data / "awkward").as_posix() for path in shared_data.glob("awkward/*/*")}
    hidden = [note.names for note in result.index.notes if note.kind == "hidden"]
    assert found == {key for key in there if not key.split("/")[-1].startswith(".")}
    assert there - found == {name for names in hidden for name in names}
    assert all(problem.reason for problem in result.index.problems)
    assert scan(shared_data / "awkward", previous=result.index).num_read == 0
