"""Fixtures of the tests of questions."""

from tests.servers import faulty

__all__ = ["faulty"]
