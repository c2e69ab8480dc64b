"""Wraps all calls of image libraries: their warnings are silenced, their errors become `ImageError`.

Parsers of damaged files raise nearly anything (struct.error, SyntaxError, ZeroDivisionError, ...), so this is the one
place that catches every exception; none is swallowed, each becomes an `ImageError` with its reason.
"""

from __future__ import annotations

import errno
import logging
import re
import struct
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from PIL import Image

from unsquare.errors import ImageError, StaleImageError

_PIL_MODULES = r"PIL\."
# Their logs on odd tags and chunks are of no use here; without a handler Python would print them.
for _name in ("tifffile", "imagecodecs"):
    logging.getLogger(_name).addHandler(logging.NullHandler())
_lock = threading.Lock()
_inside = 0

_OS_REASONS = {
    errno.ENOENT: "does not exist",
    errno.ENOTDIR: "does not exist",
    errno.EACCES: "cannot be read (no permission)",
    errno.EPERM: "cannot be read (no permission)",
    errno.EISDIR: "is a folder, not a file",
    errno.ELOOP: "is a link that leads to itself",
}


@contextmanager
def quiet() -> Iterator[None]:
    """Ignore the warnings of Pillow's own modules (corrupt EXIF and such), on every thread.

    `warnings.catch_warnings` replaces the whole list of filters and must not be used by two threads at once. Here one
    filter, for Pillow's modules only, is added by the first thread that enters and removed by the last one that leaves.
    """
    global _inside
    with _lock:
        _inside += 1
        warnings.filterwarnings("ignore", module=_PIL_MODULES)
    try:
        yield
    finally:
        with _lock:
            _inside -= 1
            if _inside == 0:
                # A catch_warnings of the caller may have replaced the list meanwhile, and our filter with it.
                with suppress(ValueError):
                    warnings.filters.remove(("ignore", None, Warning, re.compile(_PIL_MODULES), 0))  # type: ignore[attr-defined]


@contextmanager
def image_errors() -> Iterator[None]:
    """Turn any error of the image libraries within the block into an `ImageError` with its reason."""
    try:
        with quiet():
            yield
    except ImageError:
        raise
    except (FileNotFoundError, NotADirectoryError) as error:
        raise StaleImageError(_reason(error)) from error
    except MemoryError as error:
        raise ImageError("needs more memory to decode than is available") from error
    except Exception as error:
        raise ImageError(_reason(error)) from error


def _reason(error: Exception) -> str:
    if isinstance(error, OSError) and error.errno:  # from the file system; errors of the libraries have no number
        return _OS_REASONS.get(error.errno, f"cannot be read ({error.strerror})")
    if isinstance(error, Image.DecompressionBombError):
        return "declares too many pixels, like a decompression bomb"
    # Pillow wraps what its parsers raise while opening into a SyntaxError.
    inner = error.__cause__ if isinstance(error, SyntaxError) and error.__cause__ else error
    if isinstance(inner, (struct.error, EOFError, LookupError, TypeError, AttributeError, ArithmeticError)):
        return "is damaged: the decoder cannot read its structure"
    said = " ".join(str(error).split()).rstrip(".") or type(error).__name__
    if any(word in said.lower() for word in ("truncated", "premature end")):
        return f"is cut short: {said}"
    if "unsupported" in said.lower():
        return f"is of a kind that is not supported: {said}"
    if said == "not identified by this driver":
        said = "the header is not valid"
    return f"is damaged: {said}"
