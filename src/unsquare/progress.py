"""Progress: how callers are told what a long computation does, and how far it has come."""

from __future__ import annotations

from collections.abc import Callable

Progress = Callable[[int, int], None]
"""Called with what is done and how much there is in all."""
Say = Callable[[str], None]
"""Called with a sentence for whoever waits."""
