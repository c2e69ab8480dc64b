"""CSV and Parquet manifests with unusual bytes, rows and types, for `adversarial_names`."""

from __future__ import annotations

import codecs
import gzip
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from adversarial_names_case import FOUR, FOUR_LABELS, FOUR_PATHS, TWO, case, manifest, picture, plain

# --- manifests -------------------------------------------------------------------------------------------------------


def as_bytes(name: str, change: Callable[[str], bytes], classes=TWO, *said: str, file: str = "list.csv") -> None:
    """A case of the four rows, encoded differently."""

    def build(root: Path) -> Path:
        plain(root)
        (root / file).write_bytes(change("\n".join(("path,label", *FOUR)) + "\n"))
        return root / file

    build.__name__ = name
    case("bytes of CSV", classes, *said)(build)


as_bytes("line_ends_of_old_macs", lambda text: text.replace("\n", "\r").encode())
as_bytes("line_ends_of_old_macs_but_the_last", lambda text: text.rstrip("\n").replace("\n", "\r").encode())
as_bytes("line_ends_of_windows", lambda text: text.replace("\n", "\r\n").encode())
as_bytes("mixed_line_ends", lambda text: text.replace("\n", "\r\n", 2).encode())
as_bytes("no_last_line_end", lambda text: text.rstrip("\n").encode())
as_bytes("empty_lines", lambda text: ("\n\n" + text.replace("\n", "\n\n")).encode())
as_bytes("utf8_with_mark", lambda text: codecs.BOM_UTF8 + text.encode())
as_bytes("utf16", lambda text: text.encode("utf-16"))
as_bytes("utf16_big_endian", lambda text: codecs.BOM_UTF16_BE + text.encode("utf-16-be"))
as_bytes("utf16_without_mark", lambda text: text.encode("utf-16-le"), None)
as_bytes("utf32", lambda text: text.encode("utf-32"))
as_bytes("semicolons", lambda text: text.replace(",", ";").encode())
as_bytes("tabs", lambda text: text.replace(",", "\t").encode())
as_bytes("tabs_in_tsv", lambda text: text.replace(",", "\t").encode(), file="list.tsv")
as_bytes("bars", lambda text: text.replace(",", "|").encode())
as_bytes("delimiter_named_as_excel_does", lambda text: b"sep=;\r\n" + text.replace(",", ";").encode())
as_bytes("gzip", lambda text: gzip.compress(text.encode()), file="list.csv.gz")
as_bytes("gzip_without_the_name", lambda text: gzip.compress(text.encode()))
as_bytes("the_name_of_gzip_alone", lambda text: text.encode(), file="list.csv.gz")
as_bytes("gzip_cut_short", lambda text: gzip.compress(text.encode())[:-12], None, file="list.csv.gz")
as_bytes("upper_case_name", lambda text: text.encode(), file="LIST.CSV")
as_bytes(
    "latin1", lambda text: text.replace("dog,", "dög,").replace("/1.png,dog", "/1.png,dög").encode("latin-1"), None
)
as_bytes("zero_bytes", lambda text: text.replace("cat/0", "cat\0/0").encode(), None)
as_bytes("a_workbook", lambda text: b"PK\x03\x04" + text.encode(), None)
as_bytes("empty_file", lambda text: b"", None)
as_bytes("mark_alone", lambda text: codecs.BOM_UTF8, None)
as_bytes("header_alone", lambda text: b"path,label\n", None)
as_bytes("random_bytes", lambda text: bytes(range(256)) * 20, None)
as_bytes("quotes_everywhere", lambda text: "".join(f'"{line}"\n'.replace(",", '","') for line in text.split()).encode())
as_bytes("spaces_around", lambda text: text.replace(",", " , ").encode())
as_bytes("upper_case_header", lambda text: text.replace("path,label", " PATH , Label ").encode())
as_bytes("rows_of_delimiters_at_the_end", lambda text: (text + ",\n,\n").encode())
as_bytes("a_row_too_long", lambda text: text.replace("0.png,dog", "0.png,dog,,,").encode(), None, "line")
as_bytes("a_row_too_short", lambda text: text.replace("dog/0.png,dog", "dog/0.png").encode(), None, "line")
as_bytes("a_quote_without_end", lambda text: text.replace("dog/0", '"dog/0').encode(), None)
as_bytes("a_huge_cell", lambda text: text.replace("0.png,dog", "0.png," + "d" * 10**6).encode(), None)
as_bytes("no_header", lambda text: text.split("\n", 1)[1].encode(), None, "first row|path")


def listed(name: str, classes, *said: str, rows: list[str], header: str = "path,label", num_images=None) -> None:
    """A case of these rows with the pictures cat/0, cat/1, dog/0, dog/1."""

    def build(root: Path) -> Path:
        plain(root)
        return manifest(root, *(row.replace("ROOT", str(root)) for row in rows), header=header)

    build.__name__ = name
    case("rows of CSV", classes, *said, num_images=num_images)(build)


DOG = FOUR[2:]
listed("backslashes", TWO, "read with|backslashes", rows=[row.replace("/", "\\") for row in FOUR])
listed("some_backslashes", TWO, rows=["cat\\0.png,cat", *FOUR[1:]])
listed("paths_of_a_windows_drive", {"cat": 0}, "windows", rows=["C:\\data\\cat\\0.png,cat", "C:\\data\\cat\\1.png,cat"])
listed("double_slash", TWO, rows=["cat//0.png,cat", *FOUR[1:]])
listed("double_slash_twice", None, "listed", rows=["cat//0.png,cat", *FOUR])
listed("dot_twice", None, "listed", rows=["./cat/0.png,cat", *FOUR])
listed("inner_dot_twice", None, "listed", rows=["cat/./0.png,cat", *FOUR])
listed("up_and_down_twice", None, "listed", rows=["dog/../cat/0.png,cat", *FOUR])
listed("absolute_twice", None, "listed", rows=["ROOT/cat/0.png,cat", *FOUR])
listed("backslash_twice", None, "listed", rows=["cat\\0.png,cat", *FOUR])
listed("with_two_labels", None, "listed", rows=[*FOUR, "cat/0.png,dog"])
listed("spelled_twice_with_two_labels", None, "'cat' and 'dog'", rows=[*FOUR, "cat//0.png,dog"])
listed("absolute_paths", TWO, rows=[f"ROOT/{row}" for row in FOUR])
listed("absolute_with_double_slash", TWO, rows=[f"ROOT//{row}" for row in FOUR])
listed("labels_that_look_like_gaps", {"NA": 1, "null": 1, "None": 1, "nan": 1}, rows=[
    f"{path},{label}" for path, label in zip(FOUR_PATHS, ("NA", "null", "None", "nan"))
])  # fmt: skip
listed("labels_that_are_numbers", {"0": 1, "007": 1, "1": 1, "1.0": 1}, "number", rows=[
    f"{path},{label}" for path, label in zip(FOUR_PATHS, ("0", "007", "1", "1.0"))
])  # fmt: skip
listed("labels_true_and_false", {"true": 2, "False": 2}, rows=[
    f"{path},{label}" for path, label in zip(FOUR_PATHS, ("true", "true", "False", "False"))
])  # fmt: skip
listed("an_empty_label", {"cat": 1, "dog": 2}, "without a label", rows=["cat/0.png,", *FOUR[1:]], num_images=4)
listed("an_empty_path", None, "row", rows=[",cat", *FOUR])
listed("a_line_break_in_a_cell", {"cat": 2, "a dog": 1, "dog": 1}, rows=[*FOUR[:3], 'dog/1.png,"a dog"'])
listed("column_fold", TWO, "fold", header="path,label,fold", rows=[f"{row},1" for row in FOUR])
listed("pandas_row_numbers", TWO, header=",path,label", rows=[f"{i},{row}" for i, row in enumerate(FOUR)])
listed("column_lable", {}, "lable", header="path,lable", rows=FOUR, num_images=4)
listed("column_filepath", None, "filepath", header="filepath,label", rows=FOUR)
listed("column_file_path_of_many", None, "rename", header="id,image_path,label", rows=[f"1,{row}" for row in FOUR])
listed("width_alone", TWO, "width", header="path,label,width", rows=[f"{row},9" for row in FOUR])
listed("two_columns_path", None, "path", header="path,path,label", rows=[f"{row.split(',')[0]},{row}" for row in FOUR])
listed("split_in_any_case", TWO, header="path,label,split", rows=[
    f"{row},{split}" for row, split in zip(FOUR, ("Train", "VALID", "training", "Testing"))
])  # fmt: skip
listed("split_dev", None, "dev", header="path,label,split", rows=[f"{row},dev" for row in FOUR])
listed("split_by_numbers", None, header="path,label,split", rows=[f"{row},1" for row in FOUR])
listed("case_of_a_file", {"cat": 1, "dog": 2}, "case", rows=["cat/0.PNG,cat", *FOUR[1:]])
listed("nothing_there", {"cat": 0, "dog": 0}, "none of", rows=[f"data/{row}" for row in FOUR])
listed("a_path_too_long", TWO, "too long", rows=[*FOUR, "x" * 300 + ".png,dog"])
listed("sizes_and_one_file_missing", {"cat": 3, "dog": 0}, "not there", header="path,label,width,height", rows=[
    "cat/0.png,cat,9,9", "cat/1.png,cat,9,9", "dog/0.png,cat,9,9", "dog/9.png,dog,9,9"
])  # fmt: skip
listed("sizes_that_make_no_sense", None, "row 1", header="path,label,width,height", rows=["cat/0.png,cat,-9,9"])


@case("rows of CSV", {"cat": 2})
def line_break_in_a_name(root):
    picture(root / "a\nb.png")
    picture(root / "c.png")
    return manifest(root, '"a\nb.png",cat', "c.png,cat")


@case("rows of CSV", {"cat": 1, "dog": 1})
def backslash_in_a_name_is_no_folder(root):
    picture(root / "a\\b.png")
    picture(root / "a/b.png")
    return manifest(root, "a\\b.png,cat", "a/b.png,dog")


@case("rows of CSV", {"cat": 1, "dog": 1})
def up_through_a_link(root):
    picture(root / "elsewhere/inner/x.png")
    picture(root / "elsewhere/0.png")
    picture(root / "source/0.png")
    (root / "source/link").symlink_to("../elsewhere/inner")
    return manifest(root / "source", "link/../0.png,cat", "0.png,dog")


def parquet(name: str, classes, *said: str, num_images=None, file: str = "list.parquet", **columns: object) -> None:
    """A case of a Parquet manifest with these columns."""

    def build(root: Path) -> Path:
        plain(root)
        (root / file).parent.mkdir(exist_ok=True)
        pq.write_table(pa.table(columns), root / file)
        return root / file

    build.__name__ = name
    case("Parquet", classes, *said, num_images=num_images)(build)


parquet("parquet_text", TWO, path=FOUR_PATHS, label=FOUR_LABELS)
parquet("parquet_dictionary", TWO, path=FOUR_PATHS, label=pa.array(FOUR_LABELS).dictionary_encode())
parquet("parquet_large_text", TWO, path=pa.array(FOUR_PATHS, pa.large_string()), label=FOUR_LABELS)
parquet("parquet_binary", TWO, path=pa.array([p.encode() for p in FOUR_PATHS]), label=FOUR_LABELS)
parquet("parquet_binary_not_utf8", None, path=pa.array([b"\xff"] * 4), label=FOUR_LABELS)
parquet("parquet_nulls", {"cat": 1, "dog": 2}, num_images=4, path=FOUR_PATHS, label=["cat", None, "dog", "dog"])
parquet("parquet_all_null", {}, num_images=4, path=FOUR_PATHS, label=pa.nulls(4))
parquet("parquet_null_path", None, path=["cat/0.png", None, "dog/0.png", "dog/1.png"], label=FOUR_LABELS)
parquet("parquet_numbers", {"0": 2, "1": 2}, path=FOUR_PATHS, label=[0, 0, 1, 1])
parquet(
    "parquet_floats_with_gaps", {"0": 2, "1": 1}, num_images=4, path=FOUR_PATHS, label=[0.0, 0.0, 1.0, float("nan")]
)
parquet("parquet_lists", None, path=[[path] for path in FOUR_PATHS], label=FOUR_LABELS)
parquet("parquet_label_lists", None, path=FOUR_PATHS, label=[[1], [1], [0], [0]])
parquet("parquet_images_inside", None, image=[{"bytes": b"x", "path": path} for path in FOUR_PATHS], label=FOUR_LABELS)
parquet(
    "parquet_dictionary_of_numbers", {"0": 2, "1": 2}, path=FOUR_PATHS, label=pa.array([0, 0, 1, 1]).dictionary_encode()
)
parquet(
    "parquet_zero_byte",
    {"cat": 1, "dog": 2},
    "zero byte|null byte",
    path=["cat\0.png", *FOUR_PATHS[1:]],
    label=FOUR_LABELS,
)
parquet("parquet_without_columns", None)
parquet("parquet_without_rows", None, path=pa.array([], pa.string()))
parquet("parquet_below_a_folder_with_equals", TWO, "not there|",
        file="label=x/list.parquet", path=[f"../{path}" for path in FOUR_PATHS], label=FOUR_LABELS)  # fmt: skip
parquet("parquet_labelled_by_its_folder", {}, num_images=4,
        file="label=x/list.parquet", path=[f"../{path}" for path in FOUR_PATHS])  # fmt: skip
parquet("parquet_two_columns_path", None, "one column", path=FOUR_PATHS, label=FOUR_LABELS, Path=FOUR_PATHS)
parquet("parquet_column_fold", TWO, "fold", path=FOUR_PATHS, label=FOUR_LABELS, fold=[1, 2, 3, 4])
parquet("parquet_upper_case_name", TWO, file="LIST.PARQUET", path=FOUR_PATHS, label=FOUR_LABELS)
