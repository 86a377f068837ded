"""Write docs/settings.md and docs/settings.schema.json from the settings models, so that neither can be out of date.

`--check` writes nothing and fails where a file differs. Text of keys comes from their descriptions in `d4s.config` and
`d4s.editors.editor_settings`, text of models from the docstrings there; here are only the order of the page and its examples.
"""

import argparse
import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from pydantic import TypeAdapter

from d4s.config import Study, validate
from d4s.editors.editor_settings import EditorSettings
from d4s.editors.editor_settings import resolve as resolve_editor
from d4s.editors.parts.part_families import DeltaTransform, History, Preservation, ResidualSchedule, StepTransform
from d4s.editors.presets import PRESETS, hparams_of, model_kinds_of
from tools.schema_words import Words, flow

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "settings.md"
SCHEMA = ROOT / "docs" / "settings.schema.json"

EXAMPLE = """\
study: two_methods                      # what you read goes to results/two_methods/
seeds: [1, 2, 3]
models:
  mini: {source: world}                 # a small model, trained here in minutes
datasets:
  world_qa: {source: world, style: qa}
editors:
  memit_strict: {preset: memit, preservation: {weight: 3000}}
grid:
  - models: [mini]
    datasets: [world_qa]
    editors: [unedited, memit, memit_strict, d4s]
    lengths: [10, 100]
    benchmark: longest
"""

INTRODUCTION = """\
# Settings of a study

A study is one YAML file: `params.yaml`, or one of `grids/`. It says which models, data sets, editors, numbers of edits and
seeds are combined, and how the outcome is measured and shown. A complete one is as short as this:

```yaml
{example}```

Run it with `make reproduce CONFIG=FILE`, with `snakemake --cores all --configfile FILE`, or copy it over `params.yaml`, which is
the file that `dvc repro` and plain `snakemake` read. `d4s plan --study FILE` says beforehand what it needs.

* **Little has to be written.** A key that is left out has the default shown here; only `study`, `models`, `datasets` and `grid`
  have none.
* **Nothing is guessed.** An unknown key or name, a wrong type or a value out of range is refused before anything runs, all of them
  at once, with the nearest known name.
* **Change anything, run again.** Each artefact lies under a name that is a hash of the settings that made it. What a change does not
  touch is found again; only the rest is computed (see [the pipeline](pipeline.md)).
* **Lists combine, tables define.** The axes of the grid are lists of names; `models`, `datasets` and `editors` are tables that say
  what a name means. A file given by `--configfile` stands in the place of `params.yaml`; `--config` changes single values of
  either: `--config 'seeds=[1]'`.

An editor with a YAML language server completes and checks these keys while you type, by the JSON schema beside this page: let
the first line of the file be `# yaml-language-server: $schema=docs/settings.schema.json` (or a path to it).

| to change | look at |
|---|---|
| which combinations run, and how many edits | [the grid](#the-grid) |
| a method, or one of its parts | [editors](#editors) |
| the model, its size or its training text | [models](#models) |
| the facts, the questions, the made-up world | [data sets](#data-sets) |
| how thoroughly is measured | [measuring](#measuring) |
"""

MODELS_EXAMPLE = """\
models:
  mini: {source: world, model_seed: 0}
  wide: {source: world, pretrain: {width: 256, mlp_width: 1536}}
  real: {source: records, datasets: [facts]}
  gpt2_xl: {source: hf, path: openai-community/gpt2-xl, hparams_for: gpt2-xl, dtype: float32}
"""
DATASETS_EXAMPLE = """\
datasets:
  world_qa: {source: world, style: qa}
  facts: {source: counterfact, limit: 250}
  yes_no: {source: questions, events: world, form: true_false}
"""
GRID_EXAMPLE = """\
grid:
  - {models: [mini], datasets: [world_qa], editors: [memit, d4s], lengths: [10, 100, 300], benchmark: longest}
  - {models: [mini], datasets: [yes_no], editors: [d4s], lengths: [50]}
"""
EDITORS_EXAMPLE = """\
editors:
  memit_even: {preset: memit, residual_schedule: even}                         # a preset with one part exchanged
  memit_rewound: {preset: memit, history: refit, target: {at: original}}
"""

EDITORS = """\
An editor is a preset, or an entry of `editors` that starts from a preset and says what differs; nested settings merge. A
definition from nothing names its `family` and its parts. A part is written as its kind with its settings, such as
`history: {{kind: adaptive_refit, slack: 30}}`, or as its kind alone where its settings have defaults, `history: refit`. Parts that
do not go together are refused with the reason.

Every preset has settings per kind of model, and the model's `hparams_for` picks the column. `mini` is the model that is trained
here; {columns} are settings that the methods or the field's common repositories released.

| preset | family | from | what it is | columns | released for |
|---|---|---|---|---|---|
{presets}

What the presets say for `mini`; everything else has the defaults of the family:

| preset | settings |
|---|---|
{settings}
"""


@dataclass(frozen=True, slots=True)
class Section:
    """A part of the page: settings models by name with the titles that they have there."""

    title: str
    models: Mapping[str, str]
    text: str = ""
    example: str = ""


EDITOR_TITLES = {
    "LocateThenEdit": "The family `locate_then_edit`",
    "OneTimeBatch": "The family `one_time_batch`",
    "FineTune": "The family `fine_tune`",
    "Grace": "The family `grace`",
    "KnowledgeNeurons": "The family `knowledge_neurons`",
    "Unedited": "The family `unedited`",
    "TargetSettings": "`target` of an editor",
    "KeySettings": "`keys` of an editor",
    "AnchorSettings": "`anchor` of an editor",
    "Rounds": "`rounds` of an editor",
    "ContextsSettings": "`contexts`",
}
FAMILIES_OF_PARTS = (Preservation, History, StepTransform, DeltaTransform, ResidualSchedule)


def part_titles() -> dict[str, str]:
    """The titles of parts that have settings of their own."""
    return {
        part.__name__: f"`{part.name}` with `kind: {kind}`"
        for family in FAMILIES_OF_PARTS
        for kind, part in family.kinds.items()
        if set(part.model_fields) != {"kind"}
    }


def sections() -> tuple[Section, ...]:
    """The page from top to bottom."""
    return (
        Section("The study", {"Study": "Top level"}),
        Section("The grid", {"GridRow": "A row of `grid`"}, example=GRID_EXAMPLE),
        Section(
            "Editors",
            EDITOR_TITLES | part_titles(),
            text=EDITORS.format(
                columns=", ".join(f"`{column}`" for column in released_columns()),
                presets="\n".join(preset_rows()),
                settings="\n".join(mini_rows()),
            ),
            example=EDITORS_EXAMPLE,
        ),
        Section(
            "Models",
            {
                "WorldModel": "A model with `source: world`",
                "RecordsModel": "A model with `source: records`",
                "HFModel": "A model with `source: hf`",
                "CorpusSettings": "`corpus` of a model",
                "TokenizerSettings": "`tokenizer` of a corpus",
                "PretrainSettings": "`pretrain` of a model",
            },
            example=MODELS_EXAMPLE,
        ),
        Section(
            "Data sets",
            {
                "FactsDataset": "A data set of facts",
                "QuestionsDataset": "A data set with `source: questions`",
                "TemplateWriterSettings": "`questions` with `writer: template`",
                "OpenAIWriterSettings": "`questions` with `writer: openai`",
                "ReplayWriterSettings": "`questions` with `writer: replay`",
                "WorldSettings": "`world`",
            },
            example=DATASETS_EXAMPLE,
        ),
        Section("Measuring", {"MeasureSettings": "`measure`", "BenchmarkSettings": "`benchmarks`"}),
        Section(
            "Figures and execution",
            {"FigureSettings": "`figures`", "ExecutionSettings": "`execution`", "ShardSettings": "`shards` of `execution`"},
        ),
    )


def preset_rows() -> list[str]:
    """The table of named methods, one Markdown line each."""
    everywhere = ["mini", *released_columns()]
    rows = []
    for name, preset in PRESETS.items():
        missing = [column for column in everywhere if column not in model_kinds_of(name)]
        columns = f"all but {', '.join(missing)}" if missing else "all"
        released = "all of them" if set(preset.released) == set(everywhere) - {"mini"} else ", ".join(preset.released) or "none: ours"
        rows.append(f"| `{name}` | `{preset.family}` | {preset.paper} | {preset.note} | {columns} | {released} |")
    return rows


def released_columns() -> list[str]:
    """The kinds of model, beside the embedded one, that presets have settings for."""
    return sorted({column for name in PRESETS for column in model_kinds_of(name)} - {"mini"})


def mini_rows() -> list[str]:
    """What every preset sets for the embedded model, one Markdown line each."""
    settings = {name: hparams_of(name, "mini", {}) for name in PRESETS if "mini" in model_kinds_of(name)}
    return [f"| `{name}` | `{flow(_plain(found))}` |" for name, found in settings.items()]


def _plain(value: Any) -> Any:
    """Settings with lists for tuples and without the family, which the table before says."""
    if isinstance(value, Mapping):
        return {key: _plain(part) for key, part in value.items() if key != "family"}
    return list(value) if isinstance(value, tuple) else value


def study_schema() -> dict[str, Any]:
    """JSON schema of a study; it knows the names of presets, and refuses entries whose names break the rule for names."""
    found = Study.model_json_schema()
    for value in found["properties"].values():
        if "patternProperties" in value:
            value["additionalProperties"] = False
    for entry in found["properties"]["editors"]["patternProperties"].values():
        entry["properties"] = {"preset": {"enum": list(PRESETS), "description": "The named method to start from."}}
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **found}


def page(study: Mapping[str, Any]) -> str:
    """The text of docs/settings.md.

    Raises:
        ValueError: if a settings model has no place on the page, or a key no description.
    """
    parts = {part.__name__: part.model_json_schema() for family in FAMILIES_OF_PARTS for part in family.kinds.values()}
    editors = TypeAdapter(EditorSettings).json_schema()["$defs"] | {name: parts[name] for name in part_titles()}
    definitions = study["$defs"] | editors | {"Study": study}
    titles = {name: title for section in sections() for name, title in section.models.items()}
    if set(titles) != set(definitions):
        raise ValueError(f"sections of the page and settings models differ in {sorted(set(titles) ^ set(definitions))}")
    words = Words(definitions, titles)
    parts = ["<!-- Written by `make pages` from the settings models in src/d4s; do not edit. -->\n", INTRODUCTION.format(example=EXAMPLE)]
    for section in sections():
        parts.append(f"## {section.title}\n")
        parts.extend([section.text] if section.text else [])
        parts.extend([f"```yaml\n{section.example}```\n"] if section.example else [])
        for name, title in section.models.items():
            parts.append(f"### {title}\n\n{definitions[name]['description']}\n\n{words.table(name)}\n")
    return "\n".join(parts)


def check_examples() -> None:
    """Refuse examples that are no valid settings, so that a reader can trust them.

    Raises:
        SettingsError: naming what is wrong with an example.
    """
    whole = yaml.safe_load(EXAMPLE)
    validate(Study, whole, "the example of the page")
    for section in sections():
        if section.example:
            validate(Study, whole | yaml.safe_load(section.example), f"the example of section {section.title!r}")
    for name, overrides in (whole["editors"] | yaml.safe_load(EDITORS_EXAMPLE)["editors"]).items():
        resolve_editor(name, overrides, "mini")


def files() -> dict[Path, str]:
    """Text of every generated file by path."""
    check_examples()
    schema = study_schema()
    return {PAGE: page(schema), SCHEMA: json.dumps(schema, indent=1, ensure_ascii=False) + "\n"}


def main() -> None:
    """Write the files, or with --check fail where one differs."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="write nothing; fail if a file is not up to date")
    options = parser.parse_args()
    for path, text in files().items():
        if not options.check:
            path.parent.mkdir(exist_ok=True)
            path.write_text(text, encoding="utf-8")
        elif not path.is_file() or path.read_text(encoding="utf-8") != text:
            sys.exit(f"{path.relative_to(ROOT)} does not match src/d4s: run `make pages` and commit it")


if __name__ == "__main__":
    main()
