"""Mutated manifests and indexes, and random trees of unusual names and links: read, or refused in a sentence?

Everything is drawn from the seed. A tree is right if every picture that is neither hidden nor behind a link is a row or
a problem; a mutated table if it is read, or refused in one line.

    python benchmarks/adversarial_sources.py [--tables 1500] [--trees 600] [--seed 0] [--json FILE]
"""

from __future__ import annotations

import argparse
import gzip
import io
import json
import os
import random
import shutil
import signal
import tempfile
import traceback
from collections import Counter
from pathlib import Path
from types import FrameType

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from unsquare.errors import SourceError
from unsquare.index import ShapeIndex, scan_source

TIMEOUT_S = 20
PATHS = ["cat/0.png", "cat/1.png", "dog/0.png", "dog/1.png"]
PIECES = (
    *(b"cat", b"dog", b"train", b"val", b"Test", b"x", b"a.png", b"b.PNG", b"c.jpg", b"a\\b.png"),
    *(b"\xff\xfe", b"caf\xe9", "é".encode(), "e\u0301".encode(), "名".encode(), "\u202egnp.exe".encode()),
    *(b".hid", b"._d.png", b"__MACOSX", b"a\nb", b"[red]", b"\x1b[0m", b"-x", b"~", b"%s", b"{names}", b" ", b"..."),
)


class Hang(BaseException):
    pass


def png() -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (8, 9)).save(out, "png")
    return out.getvalue()


def bases(folder: Path) -> dict[str, bytes]:
    """Good tables of every kind, with the pictures that they list."""
    for path in PATHS:
        (folder / path).parent.mkdir(exist_ok=True)
        (folder / path).write_bytes(png() + path.encode())
    text = "path,label,split,width,height\n" + "".join(f"{path},{path[:3]},train,8,9\n" for path in PATHS)
    pq.write_table(pa.table({"path": PATHS, "label": [path[:3] for path in PATHS]}), folder / "a.parquet")
    scan_source(folder).write(folder / "index.parquet")
    tables = {"a.csv": text.encode(), "utf16.csv": text.encode("utf-16"), "a.csv.gz": gzip.compress(text.encode())}
    return tables | {name: (folder / name).read_bytes() for name in ("a.parquet", "index.parquet")}


def mutated(data: bytes, rng: random.Random) -> bytes:
    out = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 5, 20))):
        at = rng.randrange(len(out) + 1)
        kind = rng.choice(("set", "set", "cut", "insert", "end", "repeat"))
        if kind == "set" and at < len(out):
            out[at] = rng.choice((0, 255, *b'\n\r",;\\/', rng.randrange(256)))
        elif kind == "cut":
            del out[at : at + rng.randrange(9)]
        elif kind == "insert":
            out[at:at] = bytes(rng.choices(b'",;\r\n\t/\\.\x00\xff sep=', k=rng.randrange(1, 6)))
        elif kind == "end":
            del out[at:]
        elif kind == "repeat":
            out[at:at] = out[: rng.randrange(40)]
    return bytes(out)


def plant(root: Path, rng: random.Random) -> set[str]:
    """A random tree; returns the pictures to be found, as an index names them."""
    folders, pictures = [b""], set()
    for _ in range(rng.randrange(1, 25)):
        place = os.path.join(rng.choice(folders), rng.choice(PIECES))
        path = os.path.join(os.fsencode(root), place)
        if os.path.lexists(path):
            continue
        kind = rng.choices(("folder", "picture", "link", "pipe"), (35, 40, 20, 5))[0]
        if kind == "folder":
            os.mkdir(path)
            folders.append(place)
        elif kind == "picture":
            with open(path, "wb") as file:
                file.write(png() + bytes([rng.randrange(3)]))
            pictures.add(place)
        elif kind == "link":
            inside = os.path.join(os.fsencode(root), rng.choice(folders))
            os.symlink(rng.choice((inside, b".", b"..", b"/proc/nowhere", b"/dev/zero", os.path.basename(place))), path)
        else:
            os.mkfifo(path)
    hidden = (b".", b"__MACOSX")
    return {
        os.fsdecode(place).encode("utf-8", "backslashreplace").decode()
        for place in pictures
        if not any(part.startswith(hidden) for part in place.split(b"/"))
    }


def outcome(source: Path, pictures: set[str]) -> str:
    """The outcome for a source with these pictures: right, wrong, refused, or a raw error."""

    def stop(number: int, frame: FrameType | None) -> None:
        raise Hang

    signal.signal(signal.SIGALRM, stop)
    signal.alarm(TIMEOUT_S)
    try:
        index = scan_source(source)
        index.write(source.parent / "written.parquet")
        ShapeIndex.read(source.parent / "written.parquet")
        return "right" if pictures <= {*index.keys, *(each.key for each in index.problems)} else "wrong"
    except SourceError as error:
        return "refused" if "\n" not in str(error) else "raw: more than one line"
    except Hang:
        return "raw: hang"
    except Exception as error:
        return f"raw: {type(error).__name__} in {traceback.extract_tb(error.__traceback__)[-1].name}"
    finally:
        signal.alarm(0)


def main() -> None:
    """Run all and print the counts."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--tables", type=int, default=1500)
    parser.add_argument("--trees", type=int, default=600)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    rng = random.Random(given.seed)
    counts: dict[str, Counter[str]] = {}
    with tempfile.TemporaryDirectory() as base:
        folder = Path(base)
        tables = bases(folder)
        for _ in range(given.tables):
            name = rng.choice(list(tables))
            (folder / f"x_{name}").write_bytes(mutated(tables[name], rng))
            counts.setdefault(name, Counter())[outcome(folder / f"x_{name}", set())] += 1
        for _ in range(given.trees):
            root = folder / "tree"
            root.mkdir()
            counts.setdefault("trees", Counter())[outcome(root, plant(root, rng))] += 1
            shutil.rmtree(root)
    for name, each in counts.items():
        print(f"{name:14}" + ", ".join(f"{number} {what}" for what, number in each.most_common()))
    if given.json:
        given.json.write_text(json.dumps(counts, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
