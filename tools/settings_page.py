"""Write the tables of docs/settings.md, and docs/settings.schema.json beside it, from the settings models: python -m tools.settings_page.

`--check` writes nothing and fails where a file differs. Keys are documented by their descriptions, models by their
docstrings; the schema also has ranges and patterns of values.
"""

import argparse
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import TypeAdapter

from d4s.editors.editor_settings import EditorSettings
from d4s.editors.parts.part_families import DeltaTransform, History, Preservation, ResidualSchedule, StepTransform
from d4s.editors.presets import PRESETS, hparams_of, model_kinds_of
from d4s.study_settings import Study
from tools.performance_page import insert_between

Schema = Mapping[str, Any]
ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "settings.md"
PART_FAMILIES = (Preservation, History, ResidualSchedule, StepTransform, DeltaTransform)
SCHEMA = ROOT / "docs" / "settings.schema.json"
BEGIN, END = "<!-- keys: begin -->", "<!-- keys: end -->"


def study_schema() -> dict[str, Any]:
    """JSON schema of a study; it knows the names of presets, and refuses entries whose names break the rule for names."""
    found = Study.model_json_schema()
    for value in found["properties"].values():
        if "patternProperties" in value:
            value["additionalProperties"] = False
    for entry in found["properties"]["editors"]["patternProperties"].values():
        entry["properties"] = {"preset": {"enum": list(PRESETS), "description": "The named method to start from."}}
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **found}


def tables() -> str:
    """Every preset, and every key of every settings model, as Markdown."""
    study = study_schema()
    models = {"Study": study} | study["$defs"] | TypeAdapter(EditorSettings).json_schema()["$defs"] | part_models()
    keys = [f"### {name}\n\n{model['description']}\n\n{table_of_keys(model, models)}" for name, model in models.items()]
    return "\n\n".join(["## Presets", presets(), "## Every key", *keys]) + "\n"


def part_models() -> dict[str, Schema]:
    """The settings of every part of an editor that has some, by the name of its class."""
    parts = [part for family in PART_FAMILIES for part in family.kinds.values()]
    return {part.__name__: part.model_json_schema() for part in parts if set(part.model_fields) != {"kind"}}


def presets() -> str:
    """The table of named methods: their family, origin, idea, the model kinds they have settings for, and the settings for `mini`."""
    kinds = sorted({kind for name in PRESETS for kind in model_kinds_of(name)})
    rows = [
        "| preset | family | from | what it is | no settings for | released for | settings for `mini` |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, preset in PRESETS.items():
        missing = ", ".join(kind for kind in kinds if kind not in model_kinds_of(name)) or "–"
        mini = one_line(hparams_of(name, "mini", {})) if "mini" in model_kinds_of(name) else "–"
        released = ", ".join(preset.released) or "none: ours"
        rows.append(f"| `{name}` | `{preset.family}` | {preset.paper} | {preset.note} | {missing} | {released} | `{mini}` |")
    return "\n".join(rows)


def table_of_keys(model: Schema, models: Mapping[str, Schema]) -> str:
    """A line per key of a settings model.

    Raises:
        ValueError: if a key has no description.
    """
    lines = ["| key | type | default | meaning |", "|---|---|---|---|"]
    for key, value in model["properties"].items():
        inner = models[value["$ref"].rsplit("/", 1)[-1]] if "$ref" in value else {}
        meaning = value.get("description", inner.get("description", "Selects this kind." if "const" in value else "")).partition("\n")[0]
        if not meaning:
            raise ValueError(f"the key {key!r} has no description; give its field one")
        default = value.get("default")
        if inner and isinstance(default, Mapping):
            default = {part: chosen for part, chosen in default.items() if chosen != inner["properties"][part].get("default")} or None
        shown = "**required**" if key in model.get("required", ()) else "" if default is None else f"`{one_line(default)}`"
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in (f"`{key}`", type_of(value), shown, meaning)) + " |")
    return "\n".join(lines)


def type_of(value: Schema) -> str:
    """A type in the words of JSON schema, settings models as links to their tables."""
    if "$ref" in value:
        name = value["$ref"].rsplit("/", 1)[-1]
        return f"[{name}](#{name.lower()})"
    if "enum" in value or "const" in value:
        return ", ".join(f"`{choice}`" for choice in value.get("enum", [value.get("const")]))
    if choices := value.get("anyOf") or value.get("oneOf"):
        return " or ".join(type_of(choice) for choice in choices if choice.get("type") != "null")
    if value["type"] == "array":
        return f"array of {type_of(value['items'])}"
    entries = [*value.get("patternProperties", {}).values(), value.get("additionalProperties")]
    return f"by name: {type_of(entries[0])}" if isinstance(entries[0], Mapping) and entries[0] else value["type"]


def one_line(value: Any) -> str:
    """A value as it is written in one line of YAML."""
    plain = json.loads(json.dumps(value))
    text = yaml.safe_dump(plain, default_flow_style=True, width=10_000, sort_keys=False, allow_unicode=True).removesuffix("\n...\n").strip()
    return json.dumps(plain, ensure_ascii=False) if "\n" in text else text


def files() -> dict[Path, str]:
    """Text of every generated file by path."""
    schema = json.dumps(study_schema(), indent=1, ensure_ascii=False) + "\n"
    return {PAGE: insert_between(PAGE.read_text(encoding="utf-8"), tables(), BEGIN, END), SCHEMA: schema}


def main() -> None:
    """Write the files, or with --check fail where one differs."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="write nothing; fail if a file is not up to date")
    options = parser.parse_args()
    for path, text in files().items():
        if not options.check:
            path.write_text(text, encoding="utf-8")
        elif not path.is_file() or path.read_text(encoding="utf-8") != text:
            sys.exit(f"{path.relative_to(ROOT)} does not match src/d4s: run `make pages` and commit it")


if __name__ == "__main__":
    main()
