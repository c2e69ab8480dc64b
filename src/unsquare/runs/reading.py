"""Reads a run's files: each matches its schema, or one sentence names the file, the place in it and a remedy.

A JSON object that a run writes, a file or a row, ends with a checksum of what is before it, because a changed digit is
still valid JSON and may still be within its range. Objects without one, of earlier releases, are read without a check.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from unsquare.errors import RunError, UnsquareError
from unsquare.files import read_regular
from unsquare.runs import upgrades
from unsquare.runs.memory_profile import VERSION as LIMITS_VERSION
from unsquare.runs.memory_profile import RunLimits
from unsquare.runs.rows import MetricsRow, StepRow
from unsquare.runs.schemas import PLAN_VERSION, PROFILE_VERSION, Manifest, NetworkProfile, PlanFile, State

NEW_RUN = "start a new run"
TO_REPORT = "move it away to report without it"
_CHECKSUM = ', "crc32": '

_JSON: dict[type[Any], int] = {
    RunLimits: LIMITS_VERSION,
    PlanFile: PLAN_VERSION,
    NetworkProfile: PROFILE_VERSION,
    Manifest: 1,
    State: 1,
}
"""The files' schemas and their versions."""
_UPGRADES: dict[tuple[type[Any], int], Callable[[dict[str, Any]], dict[str, Any]]] = {
    (RunLimits, 2): upgrades.limits,
    (PlanFile, 1): upgrades.plan,
    (NetworkProfile, 1): upgrades.profile,
}
"""Versions of earlier releases that can be read as well, each from one version to the next."""


MALFORMED = (KeyError, TypeError, AttributeError, ValueError)
"""What converting content of an earlier release raises where it is not what it should be."""


class DamagedFileError(RunError):
    """A file of a run is missing or damaged."""

    def __init__(self, path: Path, reason: str, remedy: str) -> None:
        self.path = path
        self.reason = reason
        super().__init__(f"{path} cannot be read ({reason}); {remedy}.")


class _Version(msgspec.Struct):
    version: int | None = None


def read_json(path: Path, schema: type[Any], remedy: str = NEW_RUN) -> dict[str, Any]:
    """The content of one of the run's JSON files, as plain values that match its schema.

    Raises:
        DamagedFileError: it is missing, of another version, or does not match the schema.
    """
    try:
        content = without_checksum(read_bytes(path, remedy))
    except ValueError as error:
        raise DamagedFileError(path, reason(error), remedy) from error
    found, version = _decode(path, content, _Version, remedy).version, _JSON[schema]
    if (schema, found) in _UPGRADES:
        return _upgraded(path, content, schema, remedy)
    if found != version:
        why = f"it has version {found}, but this release reads version {version}"
        raise DamagedFileError(path, why, remedy)
    _decode(path, content, schema, remedy)
    return dict(json.loads(content))  # `_decode` checked that also what the schema ignores is UTF-8 and JSON


def _upgraded(path: Path, content: bytes, schema: type[Any], remedy: str) -> dict[str, Any]:
    values = _decode(path, content, dict, remedy)
    try:
        while (upgrade := _UPGRADES.get((schema, values["version"]))) is not None:
            values = upgrade(values)
    except MALFORMED as error:
        raise DamagedFileError(path, malformed(error), remedy) from error
    return checked(values, schema, str(path), remedy)


def malformed(error: Exception) -> str:
    """What is wrong with content of an earlier release that cannot be converted."""
    return f"it lacks {error}" if isinstance(error, KeyError) else reason(error)


def decode_json(path: Path, content: bytes, schema: type[Any], remedy: str = NEW_RUN) -> Any:
    """The content of a JSON file as a value of its schema; raises like `read_json`."""
    return _decode(path, content, schema, remedy)


def checked(values: Any, schema: type[Any], what: str, remedy: str = NEW_RUN) -> dict[str, Any]:
    """Plain values, checked against a schema.

    Raises:
        DamagedFileError: they do not match it.
    """
    try:
        msgspec.convert(values, schema)
    except (ValueError, RecursionError, AssertionError, UnsquareError) as error:
        raise DamagedFileError(Path(what), reason(error), remedy) from error
    return dict(values)


def with_checksum(text: str) -> str:
    """The text of a JSON object with its CRC-32 as a last member, `crc32`."""
    head = text.rstrip().removesuffix("}").rstrip()
    return f"{head}{_CHECKSUM}{zlib.crc32(head.encode())}}}"


def without_checksum(content: bytes) -> bytes:
    """The content of a JSON object without the checksum that `with_checksum` added, if it has one.

    Raises:
        ValueError: the checksum does not match.
    """
    head, found, checksum = content.rpartition(_CHECKSUM.encode())
    if not found:
        return content
    if checksum.strip() != b"%d}" % zlib.crc32(head):
        raise ValueError("it has changed since it was written")
    return head + b"}"


def decode_row(line: bytes) -> MetricsRow | None:
    """A row of the metrics; None where the line is invalid, or has changed since it was written."""
    try:
        row: MetricsRow = msgspec.json.decode(without_checksum(line), type=MetricsRow)
    except (ValueError, RecursionError):
        return None
    if isinstance(row, StepRow):
        row.measured = [(*each[:4], upgrades.strategy_name(each[4])) for each in row.measured]
    return row


def read_bytes(path: Path, remedy: str = NEW_RUN) -> bytes:
    """The content of a regular file.

    Raises:
        DamagedFileError: there is no such file.
    """
    try:
        return read_regular(path)
    except OSError as error:
        raise DamagedFileError(path, reason(error), remedy) from error


def read_text(path: Path, remedy: str = NEW_RUN) -> str:
    """The content of a text file; raises like `read_bytes`, and where it is not UTF-8."""
    try:
        return read_bytes(path, remedy).decode("utf-8")
    except UnicodeDecodeError as error:
        raise DamagedFileError(path, reason(error), remedy) from error


def reason(error: BaseException) -> str:
    """An error's first line, for a sentence."""
    said = getattr(error, "strerror", None) or str(error).strip()
    return said.splitlines()[0].rstrip(".") if said else type(error).__name__


def _decode(path: Path, content: bytes, schema: type[Any], remedy: str) -> Any:
    try:
        msgspec.json.decode(content.decode("utf-8"))  # includes what the schema ignores
        # Schemas may build values of the package, whose own checks assert or raise an UnsquareError.
        return msgspec.json.decode(content, type=schema)
    except (ValueError, RecursionError, AssertionError, UnsquareError) as error:
        raise DamagedFileError(path, reason(error), remedy) from error
