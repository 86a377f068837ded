"""Write docs/methods.md from the presets: each method with its paper, its formula, its parts, and the tests that hold it to them.

`--check` writes nothing and fails if the page differs. What a preset is made of comes from its settings, what a family does
from the docstring of its module, which tests speak of it from their code; here are only the formulas of the parts.
"""

import argparse
import ast
import sys
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path

from d4s.editors.part_settings import Rect

from d4s.editors.editor_settings import FamilySettings, LeastSquaresSettings, LocateThenEdit, resolve
from d4s.editors.families import FAMILIES
from d4s.editors.presets import PRESETS, model_kinds_of

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "methods.md"
ORACLE_TESTS = [ROOT / "tests" / "oracle" / f"test_{name}.py" for name in ("editors", "methods", "knowledge_neurons")]

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
on the unedited model and keeps two sums over all edits, from which *W* is solved anew.

"""

TARGETS, KEYS, SPREAD, PREPARE, LAYERS, SOLVE, AFTER, FINISH, LOOP, PROMPTS, WEIGHTS = (
    f"src/d4s/editors/{name}.py"
    for name in (
        "target_optimisation", "keys", "residual_schedule", "preparation", "edited_layers", "least_squares", "step_transforms",
        "delta_transforms", "locate_then_edit", "prompts", "weights",
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
    ("share of it for this layer: 1/(*L − i*)", {"residual_weight": SPREAD}),
    (
        "MEMIT: Δ ← Δ + *R Kᵀ* (λ*C* + *K Kᵀ*)⁻¹ over this batch. D4S: over all edits so far the sums Σ *r kᵀ* and Σ *k kᵀ*, "
        "Δ = (Σ *r kᵀ*) (λ*C* + Σ *k kᵀ*)⁻¹",
        {"fit": LAYERS, "_gain": LAYERS, "add": SOLVE},
    ),
    ("*W = W₀ + Δ*, summed in float64 and rounded once; the next layer is read with it", {"write_weight": WEIGHTS}),
)
"""MEMIT and D4S, line by line, each with the functions that compute it."""
AFTERWARDS = """
The sums of line 7 are never inverted anew: the inverse of λ*C* + Σ *k kᵀ* is updated by the new keys, and the step that this takes from the
old Δ to the new one is the same solution
([`least_squares.py`](../src/d4s/editors/least_squares.py); [why](decisions/0002-states-as-values.md)).
Once, before any edit: λ*C* from text ([`collect_moments`](../src/d4s/editors/moments.py)) and its factor
([`PreservedMatrix.of`](../src/d4s/editors/edited_layers.py)).
"""
LOSS = "least mean of −log P(target tokens) + kl · KL at the KL prompt + decay · ‖δ‖ / ‖h‖², with ‖δ‖ ≤ clamp · ‖h‖"
PARTS: Mapping[tuple[str, str], tuple[str, str]] = {
    ("target.hook", "block_output"): (f"*z = h + δ* at the block's output; δ has the {LOSS}", TARGETS),
    ("target.hook", "mlp_output"): ("the same with *h* the MLP's share of the block's output", TARGETS),
    ("target.hook", "mlp_and_attention"): ("two shifts at once, of the MLP's and of the attention's share; the MLP's is written", TARGETS),
    ("target.at", "original"): ("δ is optimised on the unedited model: once, for all editors", TARGETS),
    ("target.at", "current"): ("δ is optimised on the model as edited so far", TARGETS),
    ("target.stop", "top1"): ("optimising stops a few steps after every target token has become the most likely one", TARGETS),
    ("anchor", "norm"): ("MLP output at the target rescaled to the usual norm *c*; unshifted where it is above *2c*", TARGETS),
    ("keys.average", "grouped"): ("*k = ½ k(unprefixed prompt) + ½ mean k(prefixed prompts)*", KEYS),
    ("keys.average", "plain"): ("*k = mean k* over all prompts", KEYS),
    ("keys.average", "unprefixed"): ("*k = k(unprefixed prompt)*", KEYS),
    ("keys.mode", "progressive"): ("keys of a layer are read with the layers below already edited", LOOP),
    ("keys.mode", "frozen"): ("keys are read on the unedited model", LOOP),
    ("keys.mode", "refreshed"): ("as progressive; from time to time those of all edits are read anew", LOOP),
    ("keys.shared_key", "true"): ("the averaged key in the denominator too; the target counts from the averaged output", KEYS),
    ("residual_schedule", "remeasured"): ("*share = 1 / (L − i)* of the residual measured after each layer", SPREAD),
    ("residual_schedule", "static"): ("*share = 1 / (L − i)* of the residual measured once; adds up to *1 + 1/2 + … + 1/L*", SPREAD),
    ("residual_schedule", "even"): ("*share = 1 / L* of the residual measured once", SPREAD),
    ("residual_schedule", "root"): ("*share = 1 / √(L − i)* of the residual measured after each layer", SPREAD),
    ("residual_schedule", "own"): ("each layer has a target and a residual of its own, and takes all of it", SPREAD),
    ("preservation", "moments"): ("*A₀ = λ C + ridge · I*", SOLVE),
    ("preservation", "identity"): ("*A₀ = λ I*", SOLVE),
    ("preservation", "null_space"): ("*K* becomes *K U₀* and *A₀ = λ I* there; *U₀*: eigenvectors of *C* below the threshold", PREPARE),
    ("solver", "least_squares"): ("*G = K (A₀ + M + KᵀK)⁻¹*", SOLVE),
    ("solver", "hard_constraint"): (
        "*G = u / (k·u)* with *u = A₀⁻¹ k̄*: the target is met exactly at the unprefixed prompt's key *k*",
        SOLVE,
    ),
    ("history", "none"): ("*M = 0*: earlier edits are forgotten", LAYERS),
    ("history", "keys"): ("*M = Σ kᵀk* over earlier edits", LAYERS),
    ("history", "refit"): ("Δ solved for all edits from *W₀*: *Δ ← Δ + (share · R − K Δᵀ)ᵀ G*, with *M* as for keys", LAYERS),
    ("history", "adaptive_refit"): (
        "*Δ = (Σ rᵀk)(q A₀ + M)⁻¹*; *q ← max(1, q + loss / (slack · first loss) − 1)*, *loss = tr(Δ A₀ Δᵀ)*",
        LAYERS,
    ),
    ("neurons", "share"): ("the system of the neurons alone that hold a share of *Σ|k|*; the others' weights stay", SOLVE),
    ("rounds", "bounded"): ("further passes over the layers while *above < ‖z − h‖ < below*", LOOP),
    ("step_transform", "rect"): ("entries of the step outside the largest *|step / W|* are not written", AFTER),
    ("step_transform.feedback", "true"): ("the step is solved as *(R + K Dᵀ)ᵀ G − D* with *D* what the last one lacked", LAYERS),
    ("step_transform", "sphere"): ("*G ← G − strength · G V Vᵀ*, *V* the main directions of the weight's normalised rows", AFTER),
    ("step_transform", "simie"): ("*G ← G Kᵀ K (w I + M)⁻¹*, with *M* of all keys so far", LAYERS),
    ("delta_transform", "prune"): ("singular values *s > m* of Δ become *log(s/m) + m*, *m* the largest of *W₀*", FINISH),
    ("delta_transform", "interpolate"): ("*W₀ + a Δ*, *a* the share that serves kept requests best without moving KL prompts", FINISH),
    ("delta_transform", "rescale"): ("control: *W₀ + factor · Δ*", FINISH),
    ("delta_transform", "scramble"): ("control: the entries of Δ in random order", FINISH),
}  # fmt: skip


def parts_of(settings: LeastSquaresSettings) -> Iterator[tuple[str, str]]:
    """The parts that a method is made of, in the order of the loop; what it leaves at nothing is not among them."""
    yield "target.hook", settings.target.hook
    yield "target.at", settings.target.at
    if settings.target.stop_top1 is not None:
        yield "target.stop", "top1"
    if settings.anchor is not None:
        yield "anchor", "norm"
    yield "keys.average", settings.keys.average
    yield "keys.mode", settings.keys.mode
    if settings.keys.shared_key:
        yield "keys.shared_key", "true"
    yield "residual_schedule", settings.residual_schedule
    yield "preservation", settings.preservation.kind
    if isinstance(settings, LocateThenEdit):
        yield from _parts_of_steps(settings)


def _parts_of_steps(settings: LocateThenEdit) -> Iterator[tuple[str, str]]:
    yield "solver", settings.solver
    yield "history", settings.history
    if settings.neurons < 1:
        yield "neurons", "share"
    if settings.rounds is not None:
        yield "rounds", "bounded"
    if settings.step_transform is not None:
        yield "step_transform", settings.step_transform.kind
    if isinstance(settings.step_transform, Rect) and settings.step_transform.feedback:
        yield "step_transform.feedback", "true"
    if settings.delta_transform is not None:
        yield "delta_transform", settings.delta_transform.kind


def linked(path: str) -> str:
    """A link from the page to a file of the repository."""
    return f"[`{path.removeprefix('src/d4s/editors/')}`](../{path})"


def users() -> dict[tuple[str, str], list[str]]:
    """Which presets have a part, with any of their columns.

    Raises:
        ValueError: if a preset has a part without a formula.
    """
    found: dict[tuple[str, str], list[str]] = {part: [] for part in PARTS}
    for name in PRESETS:
        for part in dict.fromkeys(part for settings in _resolved(name) for part in _parts(settings)):
            if part not in PARTS:
                raise ValueError(f"preset {name!r} has {part[0]} `{part[1]}`, which tools/methods_page.py has no formula for")
            found[part].append(name)
    return found


def _parts(settings: FamilySettings) -> Iterator[tuple[str, str]]:
    return parts_of(settings) if isinstance(settings, LeastSquaresSettings) else iter(())


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
    for part, names in users().items():
        formula, path = PARTS[part]
        methods = f"{len(names)} of them" if len(names) > 8 else ", ".join(f"[`{name}`](#{name})" for name in names) or "none by itself"
        yield f"| `{': '.join(part)}` | {formula.replace('|', '&#124;')} | {linked(path)} | {methods} |\n"


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
        f"{preset.note}\n",
        f"* **From**: {preset.paper}",
        f"* **Family**: [`{preset.family}`](#family-{preset.family})",
    ]
    if parts := list(_parts(settings)):
        lines.append("* **Parts**: " + " · ".join(f"`{part}: {choice}`" for part, choice in parts))
    lines.append(f"* **Released values for**: {released}")
    lines.append(f"* **Against its formula**: {', '.join(_checks(name)) or 'the tests of its parts and of the methods that share them'}")
    return "\n".join(lines) + "\n\n"


def _checks(name: str) -> list[str]:
    """Links to the oracle tests that speak of a preset, or to those of its family, where it has some of its own."""
    if found := [test.split("::") for test, texts in _tests().items() if name in texts]:
        return [f"[`{test}`](../{path})" for path, test in found]
    of_family = f"tests/unit/test_{Path(_source(PRESETS[name].family)).name}"
    return [linked(of_family)] if (ROOT / of_family).is_file() else []


def page() -> str:
    """The text of docs/methods.md.

    Raises:
        ValueError: if a preset has a part without a formula.
    """
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
