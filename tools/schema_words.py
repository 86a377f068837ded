"""JSON schemas of settings models in the words of a person: types, defaults and meanings of keys as Markdown."""

from collections.abc import Mapping
from typing import Any

import yaml

Schema = Mapping[str, Any]
PLURALS = {"whole number": "whole numbers", "number": "numbers", "name": "names", "text": "texts"}


def anchor(title: str) -> str:
    """The link to a heading of the same page."""
    kept = "".join(letter for letter in title.lower() if letter.isalnum() or letter in " -_")
    return "#" + kept.replace(" ", "-")


def flow(value: Any) -> str:
    """A value as it is written in one line of YAML."""
    text = yaml.safe_dump(value, default_flow_style=True, width=10_000, sort_keys=False, allow_unicode=True)
    return text.removesuffix("\n").removesuffix("\n...")


def empty_default(value: Schema) -> Any:
    """The default of a key that may be left out: what the schema says, or nothing at all."""
    return value.get("default", {} if value.get("type") == "object" else None)


class Words:
    """Describes the keys of settings models, whose definitions and titles by name it knows."""

    def __init__(self, definitions: Mapping[str, Schema], titles: Mapping[str, str]) -> None:
        self.definitions = definitions
        self.titles = titles

    def _model(self, value: Schema) -> tuple[str, Schema]:
        name = value["$ref"].rsplit("/", 1)[-1]
        return name, self.definitions[name]

    def type(self, value: Schema) -> str:
        """A type as a person says it.

        Raises:
            ValueError: for a schema that there are no words for.
        """
        if "$ref" in value or value.get("title") in self.titles:
            title = self.titles[self._model(value)[0] if "$ref" in value else value["title"]]
            return f"[{title[0].lower()}{title[1:]}]({anchor(title)})"
        if "const" in value:
            return f"`{value['const']}`"
        if "enum" in value:
            return ", ".join(f"`{choice}`" for choice in value["enum"])
        for key in ("anyOf", "oneOf"):
            if key in value:
                return " or ".join(self.type(choice) for choice in value[key] if choice.get("type") != "null")
        return self._plain(value)

    def _plain(self, value: Schema) -> str:
        match value.get("type"):
            case "integer":
                return f"whole number{_bounds(value)}"
            case "number":
                return f"number{_bounds(value)}"
            case "boolean":
                return "`true`, `false`"
            case "string":
                return "name" if "pattern" in value and "://" not in value["pattern"] else "text"
            case "array":
                return f"list of {self._plural(value['items'])}"
            case "object":
                entries = [*value.get("patternProperties", {}).values(), value.get("additionalProperties")]
                return f"by name: {self.type(entries[0])}" if isinstance(entries[0], Mapping) and entries[0] else "settings"
        raise ValueError(f"no words for the type of {value}")

    def _plural(self, value: Schema) -> str:
        text = self.type(value)
        stem = next((word for word in PLURALS if text == word or text.startswith(f"{word} ")), "")
        return PLURALS[stem] + text[len(stem) :] if stem else text

    def default(self, value: Schema, required: bool) -> str:
        """The default of a key: empty where there is none, and for nested settings only what differs from their own."""
        if required:
            return "**required**"
        default = empty_default(value)
        if "$ref" in value and isinstance(default, Mapping):
            default = self._departures(default, self._model(value)[1])
            return f"`{flow(default)}`" if default else ""
        return "" if default is None else f"`{flow(default)}`"

    def _departures(self, default: Mapping[str, Any], model: Schema) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for key, value in default.items():
            own = model["properties"][key]
            if "$ref" in own and isinstance(value, Mapping):
                inner = self._departures(value, self._model(own)[1])
                found |= {key: inner} if inner else {}
            elif value != empty_default(own):
                found[key] = value
        return found

    def meaning(self, key: str, value: Schema) -> str:
        """What a key means: its description, or that of the settings it holds.

        Raises:
            ValueError: if nothing describes it.
        """
        if "description" in value:
            return value["description"]
        if "const" in value:
            return "Selects this kind."
        if "$ref" in value:
            return self._model(value)[1]["description"].splitlines()[0]
        raise ValueError(f"the key {key!r} has no description; give its field one")

    def table(self, name: str) -> str:
        """One settings model as a Markdown table, a line per key."""
        model = self.definitions[name]
        lines = ["| key | type | default | meaning |", "|---|---|---|---|"]
        for key, value in model["properties"].items():
            cells = (f"`{key}`", self.type(value), self.default(value, key in model.get("required", ())), self.meaning(key, value))
            lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
        return "\n".join(lines)


def _bounds(value: Schema) -> str:
    if "minimum" in value and "maximum" in value:
        return f" from {value['minimum']:g} to {value['maximum']:g}"
    lower = next((f"{sign} {value[key]:g}" for key, sign in (("exclusiveMinimum", ">"), ("minimum", "≥")) if key in value), "")
    upper = next((f"{sign} {value[key]:g}" for key, sign in (("exclusiveMaximum", "<"), ("maximum", "≤")) if key in value), "")
    bounds = " and ".join(filter(None, (lower, upper)))
    return f" {bounds}" if bounds else ""
