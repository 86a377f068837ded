"""Fixtures of the tests of judges."""

from tests.servers import faulty

__all__ = ["faulty"]
