"""Fixtures of the tests of readers and of fetching."""

from tests.shelf import shelf

__all__ = ["shelf"]
