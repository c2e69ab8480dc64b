"""Pictures of every kind are predicted in one pass, and each the same however it is given."""

from __future__ import annotations

import contextlib
import io
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

import unsquare as package
from unsquare.data import loader
from unsquare.errors import ConfigError, SourceError
from unsquare.training.predictor import Prediction, Predictor

SETTINGS = {
    "backbone": "test_resnet",
    "epochs": 1,
    "budget_pixels": 60_000,
    "min_side": 33,
    "precision": "32-true",
    "accelerator": "cpu",
    "step_images": 6,
}


@pytest.fixture(scope="module")
def predictor(pictures, tmp_path_factory) -> Predictor:
    """The network of a small run."""
    run = package.train(pictures, tmp_path_factory.mktemp("asked") / "run", quiet=True, **SETTINGS)
    return Predictor(run, quiet=True)


@pytest.fixture
def files(write_picture) -> list[Path]:
    """Pictures of different shapes."""
    return [write_picture(f"{height}.png", height, 120 - height) for height in (40, 50, 60, 70)]


@pytest.fixture
def cut(write_picture) -> Path:
    """A JPEG whose header is good and whose pixels end half-way."""
    path = write_picture("cut.jpg", 80, 90, quality=95)
    content = path.read_bytes()
    path.write_bytes(content[: len(content) * 2 // 3] + b"\xff\xd9")
    return path


@pytest.fixture
def opened():
    """A function that opens pictures as a user does, without reading their pixels; closed afterwards."""
    with contextlib.ExitStack() as stack:
        yield lambda path: stack.enter_context(Image.open(path))


def probabilities(found: list[Prediction]) -> list[dict[str, float]]:
    """Each picture's probability by class."""
    return [dict(zip(each.classes, each.probabilities)) for each in found]


def assert_same(found: list[Prediction], expected: list[Prediction]) -> None:
    """The same classes and probabilities, to rounding."""
    assert len(found) == len(expected)
    for one, other in zip(probabilities(found), probabilities(expected)):
        assert one == pytest.approx(other, rel=1e-5)


def test_one_path_or_several_as_any_iterable(predictor, files):
    """A path alone is one picture, not letters; lists, tuples, generators and arrays give the same, in order."""
    alone = predictor.predict(str(files[0]))
    assert [each.path for each in alone] == [str(files[0])]
    assert predictor.predict(files[0]) == alone
    listed = predictor.predict(files)
    assert [each.path for each in listed] == list(map(str, files))
    for given in (tuple(files), (path for path in files), np.array(list(map(str, files))), dict.fromkeys(files).keys()):
        assert predictor.predict(given) == listed


def test_both_doors_return_the_same(predictor, files, cut):
    """`unsquare.predict` and `Predictor.predict` return equal lists, problems included."""
    run = predictor._run.path
    assert package.predict(run, files, top=2) == predictor.predict(files, top=2)
    asked = [files[0], cut]
    assert package.predict(run, asked, on_error="keep") == predictor.predict(asked, on_error="keep")


def test_a_picture_in_memory_is_answered_as_its_file(predictor, files, opened):
    """Pillow's pictures, opened or loaded, and arrays give what their files give, alone and mixed with files."""
    expected = predictor.predict(files)
    assert_same(predictor.predict([opened(path) for path in files]), expected)
    contents = [Image.open(io.BytesIO(path.read_bytes())) for path in files]
    assert_same(predictor.predict(contents), expected)
    loaded = [opened(path).copy() for path in files]
    assert_same(predictor.predict(loaded), expected)
    arrays = [np.asarray(image) for image in loaded]
    assert_same(predictor.predict(arrays), expected)
    assert_same(predictor.predict([files[0], loaded[1], arrays[2], files[3]]), expected)
    assert_same(predictor.predict(arrays[0]), expected[:1])
    assert_same(predictor.predict(np.stack([arrays[0], arrays[0]])), [expected[0]] * 2)
    assert [each.path for each in predictor.predict([arrays[0], loaded[1]])] == ["picture 0", "picture 1"]


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "LA", "1", "CMYK", "I;16"])
def test_every_kind_of_pixels_is_shown_as_from_a_file(predictor, tmp_path, mode, opened):
    """Gray, palettes, opacity, CMYK and 16 bits are converted as those of files are."""
    ramp = np.linspace(0, 255, 60 * 80).reshape(60, 80)
    if mode == "I;16":
        picture = Image.fromarray((ramp * 257).astype(np.uint16))
    else:
        colors = Image.fromarray(np.stack([ramp, ramp[::-1], ramp[:, ::-1]], axis=2).astype(np.uint8))
        picture = colors.convert(mode)
        if mode in ("RGBA", "LA"):
            picture.putalpha(Image.fromarray(ramp.T.reshape(60, 80).astype(np.uint8)))
    path = tmp_path / ("a.tif" if mode == "CMYK" else "a.png")
    picture.save(path)
    assert_same(predictor.predict([picture, opened(path)]), predictor.predict([path] * 2))


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("name", ["a.jpg", "a.png", "a.tif"])
def test_orientation_is_applied_once(predictor, write_picture, orientation, name, opened):
    """An opened picture is turned as its file is; one that was turned by hand is not turned again."""
    exif = Image.Exif()
    exif[274] = orientation
    path = write_picture(name, 50, 70, exif=exif, **({"quality": 100} if name == "a.jpg" else {}))
    expected = predictor.predict(path)
    assert_same(predictor.predict([opened(path), Image.open(io.BytesIO(path.read_bytes()))]), expected * 2)
    assert_same(predictor.predict(ImageOps.exif_transpose(opened(path))), expected)


def test_gray_arrays(predictor, rng):
    """With and without an axis for the one channel, gray is all three channels alike."""
    gray = rng.integers(0, 256, (50, 60), dtype=np.uint8)
    assert_same(predictor.predict([gray, gray[..., None]]), predictor.predict([np.stack([gray] * 3, axis=2)] * 2))


def test_a_folder_is_its_pictures(predictor, files, tmp_path):
    """At every depth, in the order of their names, whatever else lies there."""
    (tmp_path / "notes.txt").write_text("none")
    below = tmp_path / "z" / "deep.png"
    below.parent.mkdir()
    below.write_bytes(files[0].read_bytes())
    found = predictor.predict(tmp_path)
    assert [each.path for each in found] == list(map(str, [*files, below]))
    assert_same(found, predictor.predict([*files, below]))
    (tmp_path / "empty").mkdir()
    with pytest.raises(SourceError, match="No images were found"):
        predictor.predict(tmp_path / "empty")


def test_bad_pictures_are_raised_or_kept_in_their_place(predictor, files, cut, tmp_path):
    """Raised by default, with the name; if kept, the list has every picture, and the others have predictions."""
    (tmp_path / "text.jpg").write_text("no picture")
    asked = [files[0], tmp_path / "gone.png", cut, files[1], tmp_path / "text.jpg", cut, files[0]]
    found = predictor.predict(asked, on_error="keep")
    assert [each.path for each in found] == list(map(str, asked))
    assert [bool(each.problem) for each in found] == [False, True, True, False, True, True, False]
    assert [bool(each.classes) for each in found] == [not each.problem for each in found]
    assert found[1].problem == "does not exist"
    assert_same([found[0], found[3]], predictor.predict(files[:2]))
    assert found[0] == found[6]
    for bad in asked[1], cut, asked[4]:
        with pytest.raises(SourceError, match=bad.name):
            predictor.predict([files[0], bad])
    every = predictor.predict([cut, tmp_path / "gone.png"], on_error="keep")
    assert all(each.problem for each in every)


def test_one_pass_however_many_do_not_decode(predictor, files, cut, tmp_path, monkeypatch):
    """Each file is decoded once, though half of them fail, in whatever micro-batch."""
    asked = []
    for number in range(12):
        path = tmp_path / f"asked-{number}{'.jpg' if number % 2 else '.png'}"
        path.write_bytes((cut if number % 2 else files[number % 4]).read_bytes())
        asked.append(path)
    decoded: list[Path] = []
    real = loader.BatchLoader._place

    def counting(self, slot, plan, image, target):
        decoded.append(self._index.path(image))
        return real(self, slot, plan, image, target)

    monkeypatch.setattr(loader.BatchLoader, "_place", counting)
    found = predictor.predict(asked, on_error="keep")
    assert [bool(each.problem) for each in found] == [False, True] * 6
    assert sorted(decoded) == sorted(asked)


def test_a_picture_that_was_only_opened_may_be_damaged(predictor, files, cut, opened):
    """Its damage is found as in its file, and is its own problem alone; so is a file that is closed."""
    closed = Image.open(io.BytesIO(files[1].read_bytes()))
    closed.fp.close()
    found = predictor.predict([opened(cut), opened(files[0]), closed], on_error="keep")
    assert [bool(each.problem) for each in found] == [True, False, True]
    assert found[0] == predictor.predict(cut, on_error="keep")[0]


def test_a_picture_above_the_budget_fails_alone(predictor, files):
    """The others are answered; the reason has both numbers."""
    large = Image.new("RGB", (400, 300))
    found = predictor.predict([large, files[0]], on_error="keep")
    assert "300 x 400" in found[0].problem
    assert "60,000" in found[0].problem
    assert_same(found[1:], predictor.predict(files[0]))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (None, "NoneType"),
        (3, "int"),
        (b"\x89PNG", r"io\.BytesIO"),
        (io.BytesIO(b""), "open file"),
        ({"a.png": 1}, "dict"),
        ([None], "one of those given"),
        ([["a.png"]], "list"),
        ("", "must not be empty"),
        (torch.zeros(3, 40, 40, dtype=torch.uint8), "tensor"),
        (np.zeros((40, 40, 3)), "uint8"),
        (np.zeros((40, 40, 3), np.uint16), "uint8"),
        (np.zeros((3, 40, 40), np.uint8), "channels come last"),
        (np.zeros((40, 40, 2), np.uint8), "channels come last"),
        (np.zeros((0, 40, 3), np.uint8), "has shape"),
        (np.zeros(40, np.uint8), "has shape"),
    ],
)
@pytest.mark.parametrize("on_error", ["raise", "keep"])
def test_what_is_no_picture_is_refused_in_a_sentence(predictor, given, message, on_error):
    """A mistake of the caller is never taken for a bad file, so it is raised either way."""
    with pytest.raises((ConfigError, SourceError), match=message):
        predictor.predict(given, on_error=on_error)


def test_nothing_asked_is_nothing_answered(predictor):
    """An empty list gives an empty list."""
    assert predictor.predict([]) == []


@pytest.mark.parametrize("top", [0, -1, 2.5, "3", True])
def test_top_is_a_whole_number(predictor, files, top):
    """Anything else is refused but None, the default; more than there are classes gives them all."""
    with pytest.raises(ConfigError, match="top must be"):
        predictor.predict(files, top)
    assert len(predictor.predict(files[0], 10**9)[0].classes) == len(predictor.classes)
    assert predictor.predict(files[0], None) == predictor.predict(files[0])


def test_on_error_is_one_of_two(predictor, files):
    """Another value is named."""
    with pytest.raises(ConfigError, match="'skip'"):
        predictor.predict(files, on_error="skip")


def test_evaluating_leaves_out_what_does_not_decode_where_asked(predictor, pictures, tmp_path, cut, capsys):
    """With skip_bad the figures are those of the other pictures, with a message; without it, the first is an error."""
    source = tmp_path / "source"
    shutil.copytree(pictures, source)
    whole = predictor.evaluate(source, "test")
    label = sorted(entry.name for entry in (source / "test").iterdir())[0]
    for number in range(3):
        shutil.copy(cut, source / "test" / label / f"cut-{number}.jpg")
    with pytest.raises(SourceError, match=r"must decode, but .*cut-\d\.jpg.*--skip-bad"):
        predictor.evaluate(source, "test")
    left = Predictor(predictor._run.path).evaluate(source, "test", skip_bad=True)
    assert (left.num_images, left.accuracy) == (whole.num_images, whole.accuracy)
    assert left.loss == pytest.approx(whole.loss, rel=1e-6)
    assert "3 of 9 pictures cannot be decoded" in capsys.readouterr().err


def test_the_network_itself(predictor, files, opened):
    """`classifier` gives the logits of what `predict` answers."""
    pixels = torch.from_numpy(np.array(opened(files[2]))).permute(2, 0, 1)[None]
    with torch.no_grad():
        logits = predictor.classifier(pixels, torch.tensor([pixels.shape[2:]]))
    expected = dict(zip(predictor.classes, logits.softmax(1)[0].tolist()))
    assert probabilities(predictor.predict(files[2], 99))[0] == pytest.approx(expected, rel=1e-4)
