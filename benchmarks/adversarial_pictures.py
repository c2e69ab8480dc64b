"""Attacks on reading pictures: every kind of pixel, damaged files, and files that ask for all memory and time.

    python benchmarks/adversarial_pictures.py [--json FILE] [--only matrix|mutations|bombs]

Uses only the public functions for headers and decoding of files, so that it runs on any version of the package. Bombs
are read in processes of their own, with limits on memory and time; their peak and time are compared with those of an
ordinary picture.
"""

from __future__ import annotations

import argparse
import io
import json
import subprocess
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from picture_bombs import bombs
from picture_cases import RGB, X
from picture_matrix import all_cases, bmp
from picture_tiff import tiff
from PIL import Image

from unsquare.data.decode import decode
from unsquare.errors import ImageError
from unsquare.index.header import read_header

LIMIT_BYTES = 8 << 30
LIMIT_S = 60
ALLOWED_MB, ALLOWED_S = 200, 3.0
"""What a bomb may take more than an ordinary picture; a large picture that is read whole may take its own size."""


def outcome(path: Path) -> tuple[str, np.ndarray | None]:
    """ "" and the pixels, or the reason of the refusal."""
    try:
        shape = read_header(path).shape
        pixels = decode(path)
    except ImageError as error:
        return str(error), None
    assert pixels.shape == (*shape, 3), f"{path}: the header says {shape}, the pixels {pixels.shape}"
    return "", pixels


def run_matrix(folder: Path) -> dict:
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    failed = []
    for case in all_cases():
        path = folder / "picture"
        path.write_bytes(case.data)
        reason, pixels = outcome(path)
        result = "refused"
        if pixels is not None:
            same = pixels.shape == case.expected.shape
            result = "right" if same and np.abs(pixels.astype(int) - case.expected).max() <= case.tolerance else "wrong"
        counts[case.kind][result] += 1
        if result != "right":
            failed.append({"name": case.name, "result": result, "reason": reason})
    for kind, found in counts.items():
        print(f"{kind:20} {dict(found)}")
    total = sum(counts.values(), Counter())
    print(f"pixels: {dict(total)}")
    return {"total": total, "kinds": counts, "failed": failed}


def seeds() -> Iterator[tuple[str, bytes]]:
    """Small files of each format, to be damaged."""
    image = Image.fromarray(RGB).resize((60, 44))
    for name, options in (
        ("JPEG", {}),
        ("JPEG", {"progressive": True}),
        ("PNG", {}),
        ("WEBP", {}),
        ("WEBP", {"lossless": True}),
        ("GIF", {}),
        ("BMP", {}),
        ("PPM", {}),
        ("AVIF", {}),
        ("JPEG2000", {}),
        ("ICO", {}),
    ):
        out = io.BytesIO()
        image.save(out, name, **options)
        yield name.lower(), out.getvalue()
    table = np.arange(1024, dtype=np.uint8).tobytes()
    yield "bmp", bmp(X, 8, 40, compression=1, table=table)
    for layout, compression in (("tiles", "deflate"), ("strips", "lzw"), ("one", "packbits"), ("strips", "none")):
        yield "tiff", tiff(RGB, 8, 2, layout=layout, compression=compression, planar=layout == "tiles")
    out = io.BytesIO()
    image.save(out, "TIFF", compression="jpeg")
    yield "tiff", out.getvalue()


def run_mutations(folder: Path, per_seed: int = 64) -> dict:
    """Bytes flipped, removed or inserted, and files truncated: a picture of the header's shape, or a reason."""
    rng = np.random.default_rng(0)
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    slowest = 0.0
    for name, data in seeds():
        for i in range(per_seed):
            changed = bytearray(data)
            at = int(rng.integers(0, len(data) if i % 2 else min(len(data), 400)))
            kind = ("flip", "cut", "insert", "short")[i % 4]
            if kind == "flip":
                for place in rng.integers(0, len(data), 1 + i // 8):
                    changed[int(place)] ^= int(rng.integers(1, 256))
            elif kind == "cut":
                del changed[at : at + int(rng.integers(1, 40))]
            elif kind == "insert":
                changed[at:at] = rng.integers(0, 256, int(rng.integers(1, 40)), dtype=np.uint8).tobytes()
            else:
                del changed[at:]
            path = folder / "picture"
            path.write_bytes(changed)
            begin = time.process_time()
            try:
                reason, _ = outcome(path)
                result = "refused" if reason else "decoded"
            except Exception as error:
                result = f"raw {type(error).__name__}"
                print(name, kind, i, repr(error)[:200])
            slowest = max(slowest, time.process_time() - begin)
            counts[name][result] += 1
    for name, found in counts.items():
        print(f"{name:20} {dict(found)}")
    total = sum(counts.values(), Counter())
    print(f"mutations: {dict(total)}, slowest {slowest:.2f} s")
    return {"total": total, "formats": counts, "slowest_s": slowest}


# ---- bombs


CHILD = """
import json, re, resource, sys, time
from pathlib import Path
from unsquare.data.decode import decode
from unsquare.errors import ImageError
from unsquare.index.header import read_header
import simplejpeg, PIL.Image
def peak(): return int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) / 1024
resource.setrlimit(resource.RLIMIT_AS, (%d, %d))
path, before, out = Path(sys.argv[1]), peak(), {}
for name, call in (("header", read_header), ("decode", decode)):
    begin = time.process_time()
    try:
        call(path)
        out[name] = "read"
    except ImageError as error:
        out[name] = str(error)
    except MemoryError:
        out[name] = "raw MemoryError"
    out[name + "_s"], out[name + "_MB"] = time.process_time() - begin, peak() - before
print(json.dumps(out))
"""


def run_bombs(folder: Path) -> dict:
    results, num_bad = {}, 0
    for name, write in bombs():
        path = folder / name
        write(path)
        command = [sys.executable, "-c", CHILD % (LIMIT_BYTES, LIMIT_BYTES), path]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT_S, check=False)
            found = (
                json.loads(done.stdout) if done.returncode == 0 else {"error": done.stderr[-300:] or done.returncode}
            )
        except subprocess.TimeoutExpired:
            found = {"error": f"more than {LIMIT_S} s"}
        path.unlink()
        seconds = found.get("header_s", 0) + found.get("decode_s", 0)
        is_bad = "error" in found or seconds > ALLOWED_S or found["decode_MB"] > ALLOWED_MB
        num_bad += is_bad
        results[name] = {**found, "is_bad": is_bad}
        mark = "BAD " if is_bad else "    "
        if "error" in found:
            print(f"{mark}{name:26} {found['error']}")
        else:
            print(
                f"{mark}{name:26} header {found['header_s']:6.2f} s {found['header_MB']:6.0f} MB, decode "
                f"{found['decode_s']:6.2f} s {found['decode_MB']:6.0f} MB; "
                f"{found['header'][:60]} | {found['decode'][:60]}"
            )
    print(f"bombs: {num_bad} of {len(results)} take more than {ALLOWED_MB} MB or {ALLOWED_S} s")
    return {"num": len(results), "num_bad": num_bad, "results": results}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--only", choices=("matrix", "mutations", "bombs"))
    given = parser.parse_args()
    parts = {"matrix": run_matrix, "mutations": run_mutations, "bombs": run_bombs}
    with tempfile.TemporaryDirectory() as folder:
        found = {name: run(Path(folder)) for name, run in parts.items() if given.only in (None, name)}
    if given.json:
        given.json.write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
