"""Write docs/methods.md from the presets: each method with its paper, its formula, its parts, and the tests that hold it to them.

`--check` writes nothing and fails if the page differs. What a preset is made of comes from its settings, the formula of a part
from its class, what a family does from the docstring of its module, which tests speak of it from their code.
"""

import argparse
import ast
import sys
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path

from d4s.editors.editor_settings import FamilySettings, resolve
from d4s.editors.families import FAMILIES
from d4s.editors.least_squares_settings import LeastSquaresSettings, all_choices
from d4s.editors.parts.part import Choice
from d4s.editors.presets import PRESETS, model_kinds_of

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "methods.md"
ORACLE_TESTS = [
    ROOT / "tests" / "oracle" / f"test_{name}.py"
    for name in ("editors", "methods", "gradient_editors", "hypernetworks", "knowledge_neurons", "side_memories", "t_patcher", "melo")
]

HEAD = """\
<!-- Written by `make pages` from src/d4s/editors; do not edit. -->

# Methods

Every named method is a row of [`PRESETS`](../src/d4s/editors/presets.py). Most belong to one family, *locate then edit*, and differ only
in which parts they are made of: [one loop](../src/d4s/editors/locate_then_edit.py) runs them all. So this page says each formula
once, under [parts](#parts), and each [method](#methods-by-name) as the choice of parts that it is. Symbols are those of
[the notation](notation.md): one row per edit in *K* (keys) and *R* (residuals); *C* is the second moment, *A₀* what is preserved.

The step at one layer *i* of *L*, with the rows of the batch:

    Δ  ←  Δ + (share · R)ᵀ G,    G = K (A₀ + M + KᵀK)⁻¹

with a row of gain *G* per edit, and *M* for the keys of earlier edits where a method remembers them.

A method "after" a paper is built from descriptions at second hand. Values of every setting for every kind of model stand in
[the settings](settings.md#editors); the tests named here compare the fast code with slow, explicit formulas in float64.

## MEMIT and D4S in one page

Top to bottom, in the papers' symbols, with the function that computes each line. Both edit the output matrices *W* of the MLPs of layers
*l₀ … l_{L−1}*. They differ in lines 2, 5 and 7: MEMIT measures on the model as edited so far and forgets its earlier edits; D4S measures
on the unedited model and keeps two sums over all edits, from which *W* is refitted.

"""

TARGETS, KEYS, SCHEDULES, HISTORIES, LAYERS, SOLVE, LOOP, PROMPTS, WEIGHTS = (
    f"src/d4s/editors/{name}.py"
    for name in (
        "target_optimisation", "keys", "parts/residual_schedules", "parts/histories", "edited_layers", "least_squares",
        "locate_then_edit", "prompts", "weights",
    )
)  # fmt: skip
ALGORITHM: Sequence[tuple[str, Mapping[str, str]]] = (
    (
        'prompts: *r(s)* unprefixed and behind each prefix *x_j*; the KL prompt "*s* is a"; the last token of *s* in each',
        {"build_prompts": PROMPTS},
    ),
    (
        "*z = h + δ* at layer *l_{L−1}*, *δ* from the loss under [parts](#parts); MEMIT: on the model now, D4S: on the unedited one",
        {"optimise": TARGETS, "_optimise_targets": LOOP},
    ),
    ("for each layer *l_i*, from below:", {"_pass": LOOP}),
    (
        "*k*: what goes into *W* at the last token of *s*, the mean of unprefixed and prefixed prompts",
        {"read_activations": KEYS, "average_keys": KEYS},
    ),
    ("residual *R*; MEMIT: *z − h*, measured now; D4S: *δ*, measured once", {"_read_layer": LOOP, "_residuals": LOOP}),
    ("share of it for this layer: 1/(*L − i*)", {"weight": SCHEDULES}),
    (
        "MEMIT: Δ ← Δ + *R Kᵀ* (λ*C* + *K Kᵀ*)⁻¹ over this batch. D4S: over all edits so far the sums Σ *r kᵀ* and Σ *k kᵀ*, "
        "Δ = (Σ *r kᵀ*) (λ*C* + Σ *k kᵀ*)⁻¹",
        {"fit": LAYERS, "_gain": HISTORIES, "add": SOLVE},
    ),
    ("*W = W₀ + Δ*, summed in float64 and rounded once; the next layer is read with it", {"write_weight": WEIGHTS}),
)
"""MEMIT and D4S, line by line, each with the functions that compute it."""
AFTERWARDS = """
The sums of line 7 are not inverted at each step: the inverse of λ*C* + Σ *k kᵀ* is updated by the new keys, and the step from the
old Δ to the new one is the same solution
([`least_squares.py`](../src/d4s/editors/least_squares.py); [why](decisions/0002-states-as-values.md)).
Once, before any edit: λ*C* from text ([`collect_moments`](../src/d4s/editors/moments.py)) and its factor
([`MomentPreservation.matrix`](../src/d4s/editors/parts/preservations.py)).
"""


def linked(path: str) -> str:
    """A link from the page to a file of the repository."""
    return f"[`{path.removeprefix('src/d4s/editors/')}`](../{path})"


def users() -> dict[Choice, list[str]]:
    """Which presets have a part, with any of their columns."""
    found: dict[Choice, list[str]] = {choice: [] for choice in all_choices()}
    known = {(choice.name, choice.kind): choice for choice in found}
    for name in PRESETS:
        for part in dict.fromkeys((choice.name, choice.kind) for settings in _resolved(name) for choice in _choices(settings)):
            found[known[part]].append(name)
    return found


def _choices(settings: FamilySettings) -> Iterator[Choice]:
    return settings.choices() if isinstance(settings, LeastSquaresSettings) else iter(())


@cache
def _resolved(name: str) -> tuple[FamilySettings, ...]:
    """A preset's settings for each of its columns, the embedded model's first."""
    columns = sorted(model_kinds_of(name), key=lambda column: (column != "mini", column))
    return tuple(resolve(name, {}, column) for column in columns)


@cache
def _tests() -> Mapping[str, frozenset[str]]:
    """Oracle tests as `FILE::NAME`, with the texts that each of them holds."""
    return {
        f"{path.relative_to(ROOT)}::{node.name}": frozenset(
            part.value for part in ast.walk(node) if isinstance(part, ast.Constant) and isinstance(part.value, str)
        )
        for path in ORACLE_TESTS
        for node in ast.parse(path.read_text(encoding="utf-8")).body
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")
    }


def _parts_table() -> Iterator[str]:
    yield "| part | formula | in | methods |\n|---|---|---|---|\n"
    for choice, names in users().items():
        methods = f"{len(names)} of them" if len(names) > 8 else ", ".join(f"[`{name}`](#{name})" for name in names) or "none by itself"
        formula, path = choice.formula.replace("|", "&#124;"), _place(choice.module)
        yield f"| `{choice.name}: {choice.kind}` | {formula} | {path} | {methods} |\n"


def _place(module: str) -> str:
    """A link to a module of the package; of a part defined elsewhere its module's name."""
    return linked(f"src/{module.replace('.', '/')}.py") if module.startswith("d4s.") else f"`{module}`"


def _source(family: str) -> str:
    """The file that implements a family."""
    return f"src/{FAMILIES.module(family).replace('.', '/')}.py"


def _families() -> Iterator[str]:
    for family in FAMILIES:
        path = _source(family)
        text = ast.get_docstring(ast.parse((ROOT / path).read_text(encoding="utf-8"))) or ""
        yield f"### Family `{family}`\n\nIn {linked(path)}:\n\n{text}\n\n"


def _method(name: str) -> str:
    preset, settings = PRESETS[name], _resolved(name)[0]
    released = ", ".join(f"`{column}`" for column in preset.released) or "none; all values are ours"
    lines = [
        f"### `{name}`\n",
        f"{preset.title}. {preset.note}\n",
        f"* **From**: {f'[{preset.paper}]({preset.address})' if preset.address else preset.paper}",
        f"* **Family**: [`{preset.family}`](#family-{preset.family})",
    ]
    if choices := list(_choices(settings)):
        lines.append("* **Parts**: " + " · ".join(f"`{choice.name}: {choice.kind}`" for choice in choices))
    lines.append(f"* **Released values for**: {released}")
    lines.append(f"* **Against its formula**: {', '.join(_checks(name)) or 'the tests of its parts and of the methods that share them'}")
    return "\n".join(lines) + "\n\n"


def _checks(name: str) -> list[str]:
    """Links to the oracle tests that speak of a preset, or to those of its family, where it has some of its own."""
    if found := [test.split("::") for test, texts in _tests().items() if name in texts]:
        return [f"[`{test}`](../{path})" for path, test in found]
    of_family = f"tests/unit/editors/test_{Path(_source(PRESETS[name].family)).name}"
    return [linked(of_family)] if (ROOT / of_family).is_file() else []


def page() -> str:
    """The text of docs/methods.md."""
    parts = ["\n## Parts\n\n", *_parts_table(), "\n## Families\n\n", *_families()]
    return "".join([HEAD, *_algorithm(), AFTERWARDS, *parts, "## Methods by name\n\n", *map(_method, PRESETS)]).rstrip() + "\n"


def _algorithm() -> Iterator[str]:
    """The lines of the algorithm as a table with links to their code."""
    yield "| # | for each edit (*s*, *r*, *o*′) | where |\n|---|---|---|\n"
    for number, (line, functions) in enumerate(ALGORITHM, start=1):
        places = ", ".join(f"[`{name}`](../{path})" for name, path in functions.items())
        yield f"| {number} | {line} | {places} |\n"


def main() -> None:
    """Write the page, or with --check fail where it differs."""
    parser = argparse.ArgumentParser(description="Write docs/methods.md from the presets.")
    parser.add_argument("--check", action="store_true", help="write nothing; fail if the page is not up to date")
    if not parser.parse_args().check:
        PAGE.write_text(page(), encoding="utf-8")
    elif not PAGE.is_file() or PAGE.read_text(encoding="utf-8") != page():
        sys.exit(f"{PAGE.name} does not match src/d4s/editors: run `make pages` and commit it")


if __name__ == "__main__":
    main()
