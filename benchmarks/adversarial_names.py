"""Sources with unusual names, links, layouts and manifests: what `unsquare scan` makes of each, counted by outcome.

Each case builds a small source and runs `scan --json` in a process of its own, so that a hang is noticed. It is judged
by the right result (the images of each class, or a refusal) and by what must be reported. Outcomes:

    right      classes and counts are right, and what matters is reported; or rightly refused
    unsaid     right, but what matters is not reported
    refused    refused in one sentence, though it could be read
    wrong      silently read as something else
    raw        an error that is not one sentence, such as a traceback
    hang

    python benchmarks/adversarial_names.py [--json FILE] [--only WORD]
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import multiprocessing
import tempfile
import traceback
from collections import Counter
from pathlib import Path

import adversarial_names_folders  # noqa: F401  registers its cases
import adversarial_names_layouts  # noqa: F401
import adversarial_names_manifests  # noqa: F401
from adversarial_names_case import CASES, Case

TIMEOUT_S = 60


def _child(source: str, out: str, report: str) -> None:
    from unsquare.cli import main

    printed, complained = io.TextIOWrapper(io.BytesIO(), "utf-8"), io.TextIOWrapper(io.BytesIO(), "utf-8")
    failed, status = "", None
    with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(complained):
        try:
            for stream in (printed, complained):
                stream.reconfigure(errors="backslashreplace")
            status = main(["scan", source, "--out", out, "--json"])
        except SystemExit as stop:
            status = int(stop.code or 0)
        except BaseException:
            failed = traceback.format_exc()
    for stream in (printed, complained):
        stream.flush()
    found = {"status": status, "failed": failed}
    found |= {
        name: stream.buffer.getvalue().decode("utf-8", "backslashreplace")
        for name, stream in (("out", printed), ("err", complained))
    }
    Path(report).write_text(json.dumps(found), encoding="utf-8")


def judge(one: Case, folder: Path) -> tuple[str, str]:
    """The outcome of one case, and its details."""
    root = folder / "s"
    root.mkdir()
    source = one.build(root) or root
    report = folder / "report.json"
    child = multiprocessing.get_context("fork").Process(
        target=_child, args=(str(source), str(folder / "index.parquet"), str(report))
    )
    child.start()
    child.join(TIMEOUT_S)
    if child.is_alive():
        child.kill()
        child.join()
        return "hang", ""
    if not report.exists():
        return "raw", "the process died"
    found = json.loads(report.read_text(encoding="utf-8"))
    if found["failed"] or "Traceback" in found["err"]:
        return "raw", found["failed"].strip().splitlines()[-1]
    said = (found["out"] + found["err"]).lower()
    all_said = all(any(word in said for word in words.lower().split("|")) for words in one.said)
    if found["status"] == 0:
        values = json.loads(found["out"])
        same = one.classes is not None and values["classes"] == one.classes
        if same and values["num_images"] == (sum(one.classes.values()) if one.num_images is None else one.num_images):
            return ("right" if all_said else "unsaid"), said
        return "wrong", f"{values['classes']} {values['problems'][:2]}"
    lines = found["err"].strip().splitlines()
    if found["status"] != 1 or not lines or not lines[-1].startswith("unsquare: "):
        return "raw", " ".join(lines)
    if one.classes is None:
        return ("right" if all_said else "unsaid"), lines[-1]
    return "refused", lines[-1]


def main() -> None:
    """Run all cases and print the table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--json", type=Path)
    parser.add_argument("--only", default="")
    parser.add_argument("--verbose", action="store_true")
    given = parser.parse_args()
    import unsquare.cli.scan  # noqa: F401  once, before the children

    outcomes = {}
    for one in CASES:
        if given.only not in one.name and given.only not in one.kind:
            continue
        with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
            outcome, detail = judge(one, Path(folder))
        outcomes[one.name] = {"kind": one.kind, "outcome": outcome, "detail": detail[:300]}
        if given.verbose or outcome != "right":
            print(f"{outcome:9} {one.kind:13} {one.name}: {detail[:300]}".encode("ascii", "backslashreplace").decode())
    names = ("right", "unsaid", "refused", "wrong", "raw", "hang")
    print(f"\n{'':14}" + "".join(f"{name:>10}" for name in names))
    for kind in (*dict.fromkeys(each["kind"] for each in outcomes.values()), "all"):
        counts = Counter(each["outcome"] for each in outcomes.values() if kind in (each["kind"], "all"))
        print(f"{kind:14}" + "".join(f"{counts[name]:10}" for name in names))
    if given.json:
        given.json.write_text(json.dumps(outcomes, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
