"""Folders with unusual links, devices and names, for `adversarial_names`."""

from __future__ import annotations

import os
import shutil
import socket
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from adversarial_names_case import (
    FOUR_LABELS,
    FOUR_PATHS,
    NFC,
    NFD,
    TWO,
    case,
    four,
    manifest,
    picture,
    plain,
    raw,
)

# --- links -----------------------------------------------------------------------------------------------------------


@case("links", TWO, "self")
def link_to_itself(root):
    plain(root)
    (root / "self").symlink_to("self")


@case("links", TWO, "leads to itself|not there")
def picture_link_to_itself(root):
    plain(root)
    (root / "cat/self.png").symlink_to("self.png")


@case("links", TWO, "not there")
def broken_picture_link(root):
    plain(root)
    (root / "cat/gone.png").symlink_to("nowhere.png")


@case("links", TWO, "owl")
def broken_class_link(root):
    plain(root)
    (root / "owl").symlink_to("/proc/nowhere/owl")


@case("links", TWO, "self")
def link_to_itself_in_a_class(root):
    plain(root)
    (root / "cat/self").symlink_to("self")


@case("links", TWO, "one")
def two_links_in_a_circle(root):
    plain(root)
    (root / "one").symlink_to("two")
    (root / "two").symlink_to("one")


@case("links", TWO, "up")
def link_to_the_root(root):
    plain(root)
    (root / "cat/up").symlink_to(root)


@case("links", TWO, "here")
def link_to_the_own_folder(root):
    plain(root)
    (root / "cat/here").symlink_to(".")


@case("links", {f"c{i}": 8 for i in range(8)}, "link")
def eight_folders_that_link_to_each_other(root):
    for i in range(8):
        picture(root / f"c{i}/0.png")
    for i in range(8):
        for j in range(8):
            if i != j:
                (root / f"c{i}/to{j}").symlink_to(f"../c{j}")


@case("links", {"cat": 2, "dog": 2, "owl": 2})
def class_folder_elsewhere(root):
    plain(root / "source")
    plain(root / "elsewhere", "owl")
    (root / "source/owl").symlink_to(root / "elsewhere/owl")
    return root / "source"


@case("links", {"cat": 3, "dog": 2}, "same bytes|copies")
def two_links_to_one_picture(root):
    plain(root)
    (root / "cat/2.png").symlink_to("0.png")


@case("links", {"cat": 4, "dog": 4}, "in train too|in_two_splits")
def val_is_a_link_to_train(root):
    plain(root / "train")
    (root / "val").symlink_to("train")


@case("links", TWO)
def the_source_is_a_link(root):
    plain(root / "source")
    (root / "link").symlink_to("source")
    return root / "link"


@case("links", None)
def the_source_links_to_itself(root):
    (root / "link").symlink_to("link")
    return root / "link"


@case("links", None)
def the_source_is_a_broken_link(root):
    (root / "link").symlink_to("nowhere")
    return root / "link"


@case("links", TWO)
def unreadable_system_folder(root):
    plain(root)
    (root / "lost+found").mkdir(mode=0)


# --- not a regular file ----------------------------------------------------------------------------------------------


@case("devices", TWO, "not a regular file")
def pipe_called_a_picture(root):
    plain(root)
    os.mkfifo(root / "cat/pipe.png")


@case("devices", TWO)
def pipe_without_suffix(root):
    plain(root)
    os.mkfifo(root / "cat/pipe")


@case("devices", TWO, "not a regular file")
def socket_called_a_picture(root):
    plain(root)
    here = os.getcwd()
    os.chdir(root / "cat")  # the names of sockets are short
    with socket.socket(socket.AF_UNIX) as one:
        one.bind("s.png")
    os.chdir(here)


@case("devices", TWO, "not a regular file")
def device_called_a_picture(root):
    plain(root)
    (root / "cat/zero.png").symlink_to("/dev/zero")


@case("devices", TWO, "regular file|folder")
def manifest_lists_a_folder(root):
    plain(root)
    return manifest(root, "cat/0.png,cat", "cat/1.png,cat", "dog/0.png,dog", "dog/1.png,dog", "dog,dog")


@case("devices", {"cat": 1}, "not a regular file")
def manifest_lists_a_pipe(root):
    plain(root)
    os.mkfifo(root / "p.png")
    return manifest(root, "cat/0.png,cat", "p.png,cat")


@case("devices", None)
def manifest_is_a_pipe(root):
    os.mkfifo(root / "list.csv")
    return root / "list.csv"


@case("devices", None)
def index_is_a_pipe(root):
    os.mkfifo(root / "list.parquet")
    return root / "list.parquet"


# --- names -----------------------------------------------------------------------------------------------------------


@case("names", TWO, "utf-8")
def class_folder_not_utf8(root):
    plain(root)
    os.mkdir(raw(root, b"caf\xe9"))
    shutil.copy(root / "cat/0.png", raw(root, b"caf\xe9/0.png"))


@case("names", {"cat": 1, "dog": 2}, "utf-8")
def file_not_utf8(root):
    plain(root)
    os.rename(root / "cat/0.png", raw(root, b"cat/\xff.png"))


@case("names", TWO, "utf-8")
def inner_folder_not_utf8(root):
    plain(root)
    os.mkdir(raw(root, b"cat/\xe9"))
    shutil.copy(root / "cat/0.png", raw(root, b"cat/\xe9/0.png"))


@case("names", None)
def folder_beside_splits_not_utf8(root):
    plain(root / "train")
    os.mkdir(raw(root, b"\xe9"))
    shutil.copy(root / "train/cat/0.png", raw(root, b"\xe9/0.png"))


@case("names", TWO)
def empty_folder_not_utf8(root):
    plain(root)
    os.mkdir(raw(root, b"\xe9"))


@case("names", TWO)
def link_and_hidden_not_utf8(root):
    plain(root)
    os.symlink(b"nowhere", raw(root, b"\xe9"))
    os.mkdir(raw(root, b".\xe9"))


@case("names", TWO)
def the_source_is_not_utf8(root):
    source = Path(os.fsdecode(raw(root, b"caf\xe9")))
    plain(source)
    return source


@case("names", TWO)
def manifest_in_a_folder_not_utf8(root):
    source = Path(os.fsdecode(raw(root, b"caf\xe9")))
    plain(source)
    return four(source)


@case("names", TWO)
def manifest_with_a_name_not_utf8(root):
    plain(root)
    return four(root, os.fsdecode(b"caf\xe9.csv"))


@case("names", TWO)
def parquet_with_a_name_not_utf8(root):
    plain(root)
    path = Path(os.fsdecode(raw(root, b"caf\xe9.parquet")))
    with path.open("wb") as file:
        pq.write_table(pa.table({"path": FOUR_PATHS, "label": FOUR_LABELS}), file)
    return path


@case("names", {"cat": 2, NFC: 4}, "unicode")
def class_in_two_unicode_forms(root):
    plain(root, "cat", NFC)
    for i in range(2):
        picture(root / NFD / f"{i + 5}.png")


@case("names", {"cat": 4, NFC: 4})
def class_in_another_form_per_split(root):
    plain(root, "train/cat", f"train/{NFC}", "val/cat", f"val/{NFD}")


@case("names", {"cat": 1, NFC: 2})
def labels_in_two_unicode_forms(root):
    plain(root)
    return manifest(root, "cat/0.png,cat", f"dog/0.png,{NFC}", f"dog/1.png,{NFD}")


@case("names", {"a": 2})
def paths_in_another_unicode_form(root):
    plain(root, NFD)
    return manifest(root, f"{NFC}/0.png,a", f"{NFC}/1.png,a")


@case("names", {"Cat": 2, "cat": 2, "dog": 2}, "case")
def classes_that_differ_by_case(root):
    plain(root, "cat", "Cat", "dog")


@case("names", {"cat": 2, "cat ": 2, "dog": 2}, "spaces")
def classes_that_differ_by_a_space(root):
    plain(root, "cat", "cat ", "dog")


@case("names", {"cat": 2, "cat\u200b": 2, "dog": 2}, "invisible")
def classes_that_differ_by_an_invisible_character(root):
    plain(root, "cat", "cat\u200b", "dog")


@case("names", {"ca\nt": 2, "\x1b[31mdog": 2})
def control_characters(root):
    plain(root, "ca\nt", "\x1b[31mdog")


@case("names", {"[red]cat[red]": 2, "dog": 2})
def markup_in_a_name(root):
    plain(root, "[red]cat[red]", "dog")


@case("names", {"a,b": 2, '"c"': 2, "=1+1": 2})
def marks_of_csv_in_names(root):
    plain(root, "a,b", '"c"', "=1+1")


@case("names", {"a\\b": 2, "c": 2})
def a_backslash_in_a_name(root):
    plain(root, "a\\b", "c")


@case("names", {"猫": 2, "🐕": 2})
def other_scripts(root):
    plain(root, "猫", "🐕")


@case("names", {"x" * 255: 1, "cat": 2})
def the_longest_name(root):
    plain(root, "cat")
    picture(root / ("x" * 255) / ("y" * 250 + ".png"))
