"""Folders that are laid out in another way than expected, for `adversarial_names`."""

from __future__ import annotations

import shutil

from adversarial_names_case import TWO, case, picture, plain

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
