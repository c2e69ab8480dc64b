"""Stock models, images alone and errors, as for exact networks."""

from tests.exact.conftest import references

__all__ = ["references"]
