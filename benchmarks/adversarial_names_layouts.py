"""Folders with hidden and side files, or with unexpected layouts, for `adversarial_names`."""

from __future__ import annotations

import shutil

from adversarial_names_case import APPLE, TWO, case, picture, plain

# --- hidden and side files -------------------------------------------------------------------------------------------


@case("hidden", TWO, "left out")
def companions_of_macos(root):
    plain(root)
    (root / "cat/._0.png").write_bytes(APPLE)
    (root / "._cat").write_bytes(APPLE)


@case("hidden", TWO, "left out")
def companion_folder_of_a_zip(root):
    plain(root)
    (root / "__MACOSX/cat").mkdir(parents=True)
    (root / "__MACOSX/cat/._0.png").write_bytes(APPLE)


@case("hidden", TWO, "left out")
def trash_of_android(root):
    plain(root)
    picture(root / "cat/.trashed-1700000000-IMG_1.png")


@case("hidden", TWO, "left out")
def pending_of_android(root):
    plain(root)
    picture(root / "cat/.pending-1700000000-IMG_1.png")


@case("hidden", TWO, "left out")
def backups_and_unfinished_downloads(root):
    plain(root)
    for end in (".part", ".crdownload", ".tmp", ".bak", "~", "_original"):
        (root / f"cat/0.png{end}").write_bytes((root / "cat/0.png").read_bytes())


@case("hidden", TWO, "left out")
def thumbnails_in_a_class(root):
    plain(root)
    picture(root / "cat/.thumbnails/0.png")


@case("hidden", TWO, "left out")
def thumbnails_of_synology(root):
    plain(root)
    picture(root / "cat/@eaDir/0.png/thumb.png")


@case("hidden", TWO, "left out")
def checkpoints_of_notebooks(root):
    plain(root)
    picture(root / "cat/.ipynb_checkpoints/0-checkpoint.png")


@case("hidden", TWO, "left out")
def recycle_bins(root):
    plain(root)
    picture(root / "$RECYCLE.BIN/0.png")
    picture(root / "#recycle/0.png")


@case("hidden", TWO)
def files_of_desktops(root):
    plain(root)
    for name in (".DS_Store", "Thumbs.db", "desktop.ini", "cat/.DS_Store", "cat/Thumbs.db", "dog/desktop.ini"):
        (root / name).write_bytes(b"\x00\x00\x00\x01Bud1" + bytes(50))


@case("hidden", TWO, "left out")
def hidden_pictures_in_split_folders(root):
    plain(root / "train")
    picture(root / "train/.x.png")
    picture(root / ".cache/train/cat/0.png")


@case("hidden", TWO, "AppleDouble")
def companion_without_a_dot(root):
    plain(root)
    (root / "cat/x.png").write_bytes(APPLE)


@case("hidden", None, "left out")
def nothing_but_hidden(root):
    picture(root / ".hidden/0.png")


# --- layouts ---------------------------------------------------------------------------------------------------------


@case("layouts", {}, num_images=3)
def flat(root):
    plain(root, "", each=3)


@case("layouts", {}, num_images=4)
def flat_splits(root):
    plain(root, "train", "val")


@case("layouts", TWO)
def train_alone(root):
    plain(root / "train")


@case("layouts", TWO)
def val_alone(root):
    plain(root / "val")


@case("layouts", {"cat": 4, "dog": 4})
def upper_case_splits(root):
    plain(root / "Train")
    plain(root / "VALIDATION")


@case("layouts", None)
def train_beside_dev(root):
    plain(root / "train")
    plain(root / "dev")


@case("layouts", None)
def val_and_test_beside_another(root):
    plain(root / "val")
    plain(root / "test")
    plain(root / "dev")


@case("layouts", {"valid": 2, "invalid": 2}, "class, not as a split|split_as_class")
def classes_valid_and_invalid(root):
    plain(root, "valid", "invalid")


@case("layouts", {"cat": 4, "dog": 4}, "together")
def two_names_of_one_split(root):
    plain(root / "train")
    plain(root / "val", "cat")
    plain(root / "validation", "dog")


@case("layouts", TWO, "owl")
def empty_class(root):
    plain(root)
    (root / "owl").mkdir()


@case("layouts", TWO, "train/owl")
def empty_class_in_a_split(root):
    plain(root / "train")
    (root / "train/owl").mkdir()


@case("layouts", TWO, "val")
def empty_split(root):
    plain(root / "train")
    (root / "val").mkdir()


@case("layouts", TWO, "owl")
def class_of_other_files(root):
    plain(root)
    (root / "owl").mkdir()
    (root / "owl/film.mp4").write_bytes(b"\x00\x00\x00\x18ftypisom")


@case("layouts", TWO, "cat/young")
def inner_folders(root):
    plain(root, "cat/young", "cat/old", "dog", each=1)
    picture(root / "dog/1.png")


@case("layouts", {"photos": 4}, "photos")
def one_folder_too_high(root):
    plain(root / "photos")


@case("layouts", {"photos": 8}, "split")
def one_folder_above_the_splits(root):
    plain(root / "photos/train")
    plain(root / "photos/val")


@case("layouts", {"cat": 2, "dog": 2}, "split")
def splits_inside_classes(root):
    plain(root, "cat/train", "cat/val", "dog/train", "dog/val", each=1)


@case("layouts", {"cat": 4, "dog": 2, "owl": 2}, "owl")
def class_in_val_alone(root):
    plain(root, "train/cat", "train/dog", "val/cat", "val/owl")


@case("layouts", {"cat": 2, "dog": 2, "owl": 2}, "owl")
def class_in_test_alone(root):
    plain(root, "train/cat", "train/dog", "test/owl")


@case("layouts", {"cat": 5, "dog": 4}, "val/cat/copy.png")
def picture_in_train_and_val(root):
    plain(root, "train/cat", "train/dog", "val/cat", "val/dog")
    shutil.copy(root / "train/cat/0.png", root / "val/cat/copy.png")


@case("layouts", {"cat": 3, "dog": 2}, "more than one label|two_labels")
def picture_in_two_classes(root):
    plain(root)
    shutil.copy(root / "dog/0.png", root / "cat/copy.png")


@case("layouts", {"cat": 2, "dog": 1}, "single")
def class_with_one_picture(root):
    plain(root, "cat")
    picture(root / "dog/0.png")


@case("layouts", {"cat": 2, "dog": 0}, "dog")
def class_of_bad_files(root):
    plain(root, "cat")
    (root / "dog").mkdir()
    (root / "dog/0.png").write_bytes(b"")


@case("layouts", None)
def empty_folder(root):
    pass


@case("layouts", None, "pictures")
def a_typo(root):
    plain(root / "pictures")
    return root / "pictrues"


@case("layouts", None)
def a_picture_as_the_source(root):
    return picture(root / "0.png")
