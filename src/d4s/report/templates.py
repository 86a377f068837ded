"""The templates of pages, and the parts that they are made of."""

from importlib.resources import files

from jinja2 import Environment, StrictUndefined


def environment() -> Environment:
    """A template environment that escapes every value."""
    return Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)


def part(name: str) -> str:
    """The text of a file of this package."""
    return (files("d4s.report") / name).read_text(encoding="utf-8")
