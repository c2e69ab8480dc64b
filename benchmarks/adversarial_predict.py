"""Attacks on `predict`: many pictures that do not decode, and every kind of argument that a user may give.

    python benchmarks/adversarial_predict.py --pictures 120 --bad 30 --json predict.json

Trains a small network first. Prints the CPU seconds of a pass over good and bad pictures, and of one over the good ones
alone; and for each kind of argument, whether it is answered, refused in a sentence, or ends in a raw error. Uses only
the public interface, so that releases can be compared.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

import unsquare
from unsquare.demo.materials import MaterialsConfig, make_materials

SETTINGS: dict[str, Any] = {
    "backbone": "test_resnet",
    "epochs": 1,
    "budget_pixels": 200_000,
    "min_side": 33,
    "precision": "32-true",
    "accelerator": "cpu",
    "step_images": 6,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--pictures", type=int, default=120)
    parser.add_argument("--bad", type=int, default=30)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        config = MaterialsConfig(num_train=24, num_val=6, num_test=6, mean_pixels=6_000)
        run = unsquare.train(make_materials(work / "train", config), work / "run", quiet=True, **SETTINGS)
        found = {"pass": _time_pass(run, work, options.pictures, options.bad), "arguments": _arguments(run, work)}
    print(json.dumps(found["pass"], indent=1))
    for name, outcome in found["arguments"].items():
        print(f"{name:34} {outcome}")
    print(Counter(outcome.split(":")[0] for outcome in found["arguments"].values()))
    if options.json:
        options.json.write_text(json.dumps(found, indent=1))


def _time_pass(run: Path, work: Path, num_pictures: int, num_bad: int) -> dict[str, Any]:
    """Seconds of a pass with and without pictures that are truncated behind a good header."""
    rng = np.random.default_rng(0)
    bad = set(rng.permutation(num_pictures)[:num_bad].tolist())
    paths = []
    for number in range(num_pictures):
        height, width = rng.integers(60, 200, size=2).tolist()
        path = work / f"{number}.jpg"
        Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8)).save(path)
        if number in bad:
            # Closed by an end marker, so that only decoding shows it.
            path.write_bytes(path.read_bytes()[: path.stat().st_size // 2] + b"\xff\xd9")
        paths.append(path)
    predictor = unsquare.Predictor(run, quiet=True)
    good = [path for number, path in enumerate(paths) if number not in bad]
    predictor.predict(good[:4])
    seconds, answers = {}, 0
    for name, asked in (("good", good), ("all", paths)):
        started = time.process_time()
        answers = _num_answers(predictor, asked)
        seconds[name] = round(time.process_time() - started, 2)
    return {"pictures": num_pictures, "bad": num_bad, "answered": answers, "processor_s": seconds}


def _num_answers(predictor: Any, paths: list[Path]) -> int:
    try:
        found = predictor.predict(paths, on_error="keep")
    except TypeError:  # releases before on_error return a pair
        return len(predictor.predict(paths)[0])
    return sum(not each.problem for each in found)


def _arguments(run: Path, work: Path) -> dict[str, str]:
    """The outcome for each kind of argument."""
    path, folder = work / "one.png", work / "folder"
    pixels = np.random.default_rng(1).integers(0, 256, (70, 90, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    (folder / "deep").mkdir(parents=True)
    Image.fromarray(pixels).save(folder / "deep" / "a.png")
    Image.fromarray(pixels).save(folder / "b\x1b[31m.png")
    os.mkfifo(work / "pipe.jpg")
    picture = Image.fromarray(pixels)
    given: dict[str, Callable[[], Any]] = {
        "a path as text": lambda: str(path),
        "a path": lambda: path,
        "a list of paths": lambda: [path, str(path)],
        "a tuple": lambda: (path,),
        "a generator": lambda: (each for each in [path, path]),
        "an array of names": lambda: np.array([str(path)]),
        "an empty list": list,
        "the same path twice": lambda: [path, path],
        "a folder": lambda: folder,
        "a picture of PIL": lambda: picture,
        "a picture opened, not loaded": lambda: Image.open(path),
        "a list of PIL pictures": lambda: [picture, picture.convert("L"), picture.convert("P")],
        "an array": lambda: pixels,
        "a gray array": lambda: pixels[..., 0],
        "a gray array with an axis": lambda: pixels[..., :1],
        "several arrays at once": lambda: np.stack([pixels, pixels]),
        "an array of floats": lambda: pixels / 255,
        "an array with channels first": lambda: pixels.transpose(2, 0, 1),
        "bytes": lambda: path.read_bytes(),
        "an open file": lambda: io.BytesIO(path.read_bytes()),
        "None": lambda: None,
        "a number": lambda: 3,
        "a dictionary": lambda: {"a": path},
        "a list of None": lambda: [None],
        "a list of lists": lambda: [[path]],
        "an empty name": lambda: "",
        "a name with a null": lambda: "a\0.jpg",
        "a name too long": lambda: "a" * 5000,
        "a missing file": lambda: work / "none.jpg",
        "a file that is no picture": lambda: __file__,
        "an empty picture": lambda: Image.new("RGB", (0, 0)),
        "a picture of one pixel": lambda: Image.new("RGB", (1, 1)),
    }
    outcomes = {}
    for name, make in given.items():
        try:
            found = unsquare.predict(run, make())
            outcomes[name] = f"answered: {len(found)}, " + ", ".join(Path(each.path).name for each in found)[:60]
        except unsquare.UnsquareError as error:
            outcomes[name] = f"refused: {error}"
        except Exception as error:
            outcomes[name] = f"raw error: {type(error).__name__}: {error}"
    for top in (0, -1, 2.5, "3", True, None, 10**9):
        try:
            outcomes[f"top={top!r}"] = f"answered: {len(unsquare.predict(run, [path], top=top)[0].classes)} classes"
        except unsquare.UnsquareError as error:
            outcomes[f"top={top!r}"] = f"refused: {error}"
        except Exception as error:
            outcomes[f"top={top!r}"] = f"raw error: {type(error).__name__}: {error}"
    return outcomes


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    main()
