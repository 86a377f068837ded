"""Write docs/key_modes.md: how far D4S, with its keys read in different ways, is from one batch of the same requests.

snakemake --cores all && python -m tools.key_modes

Reads model, facts, prefixes, moments and targets of a finished study from results/store, makes each sequence of edits
again (a targetless step costs milliseconds), and compares the change of every layer's weight with the batch's, both with
the weight of the preserved moments that D4S has:  ‖Δ − Δ_batch‖ / ‖Δ_batch‖  in the Frobenius norm.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from d4s.artifacts import Artifact
from d4s.editors.edit_requests import draw_requests
from d4s.editors.editor_settings import resolve as resolve_editor
from d4s.editors.families import build
from d4s.editors.least_squares_settings import LocateThenEdit, OneTimeBatch
from d4s.editors.locate_then_edit import LocateThenEditEditor
from d4s.editors.one_time_batch import OneTimeBatchEditor
from d4s.editors.target_optimisation import read_targets
from d4s.facts.record import from_frame
from d4s.log import progress
from d4s.models.loading import load
from d4s.runs.prepared_parts import load_prepared
from d4s.schemas import FACTS
from d4s.study.resolve import resolve
from d4s.study_settings import load_study

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "key_modes.md"
LENGTHS = (10, 50, 110, 210, 310)  # none a multiple of the edits between two refreshes but for 50, so that refreshed keys are seen ageing
MODES = {
    "as released": {"preset": "d4s"},
    "as released, even schedule": {"preset": "d4s_even"},
    "frozen keys": {"preset": "d4s_frozen"},
    "frozen keys, even schedule": {"preset": "d4s_frozen", "residual_schedule": "even"},
    "residuals re-measured": {"preset": "d4s", "residual_schedule": "remeasured"},
    "residuals re-measured, keys refreshed every 50 edits": {"preset": "d4s_refreshed"},
}
HEAD = """# How far is D4S from one batch of the same requests?

The table shows how far the weights of D4S are from those of one batch edit of the same requests, by key mode and residual schedule. After
the default study, measure it again with

```sh
python -m tools.key_modes     # writes this page
```

D4S turns a sequence of edits into one least-squares problem. On its first edited layer that is exact: keys and residuals there are those
of the original model, independent of earlier edits. On deeper layers the keys of early edits were read while the layers below had fewer
edits than now, and the released weights of the residual add up to more than one. The table has the distance of each layer's change from
that of the one-time batch, relative to the batch's, in the Frobenius norm, on the embedded model (`{dataset}`, seed {seed}, preservation
weight as tuned for D4S).

Layer 0 is exact in every key mode. On the deeper layers, re-measured residuals are close to the batch at first and drift as keys age;
refreshing the keys gives the batch at every refresh; and frozen keys, which make the result independent of the order of edits, are
farthest from it, since the batch itself reads deeper keys after shallower layers were edited.

| keys and residuals | edits | {layers} |
|---|---|{rules}|
"""


def main() -> None:
    """Write the page."""
    study = load_study(ROOT / "params.yaml")
    (cell,) = (cell for cell in resolve(study).cells if cell.key.editor == "d4s" and cell.key.dataset == "world_qa")
    inputs = {role: node.folder for role, node in cell.run.inputs.items()}
    model = load(inputs["model"])
    facts = from_frame(Artifact.open(inputs["facts"], "facts").table("facts.parquet", FACTS))
    requests = [request for request, _ in draw_requests(facts, cell.key.seed, min(LENGTHS[-1], max(cell.lengths)))]
    targets = read_targets(inputs["targets"], requests)
    released = resolve_editor("d4s", {}, "mini")
    prepared = load_prepared(inputs, released)
    shared = {"preservation": released.preservation.model_dump(), "layers": released.layers}
    lengths = [length for length in LENGTHS if length <= len(requests)] + [len(requests)] * (len(requests) not in LENGTHS)

    def states(settings: LocateThenEdit | OneTimeBatch) -> Iterator[dict[int, Tensor]]:
        """Changes of weights after each length of one sequence."""
        editor = build(settings)
        with editor.editing(model, prepared, editor.start(model, prepared)) as session:
            for number, request in enumerate(requests, start=1):
                session.step([request], targets[number - 1 : number])
                if number in lengths:
                    state = session.state()
                    if isinstance(editor, LocateThenEditEditor):
                        yield {layer: delta.clone() for layer, delta in session.deltas().items()}  # type: ignore[attr-defined]
                    elif isinstance(editor, OneTimeBatchEditor):
                        with editor.edited(model, prepared, state) as view:
                            yield {layer: change.double() for layer, change in (view.weight_changes() or {}).items()}

    batch = [*states(resolve_editor("batch", {"preset": "one_time_batch", **shared}, "mini"))]  # type: ignore[arg-type]
    rows = []
    for name, changes in progress(MODES.items(), "key modes", len(MODES)):
        found = states(resolve_editor("variant", {**changes, "preservation": shared["preservation"]}, "mini"))  # type: ignore[arg-type]
        rows += [row(name, length, ours, theirs) for length, ours, theirs in zip(lengths, found, batch, strict=True)]
    layers = " | ".join(f"layer {layer}" for layer in released.layers)
    head = HEAD.format(dataset=cell.key.dataset, seed=cell.key.seed, layers=layers, rules="|".join("---" for _ in released.layers))
    PAGE.write_text(head + "".join(rows), encoding="utf-8")


def row(name: str, length: int, ours: Mapping[int, Tensor], theirs: Mapping[int, Tensor]) -> str:
    """One line of the table."""
    return f"| {name} | {length} | " + " | ".join(f"{gap:.3f}" for gap in distances(ours, theirs)) + " |\n"


def distances(ours: Mapping[int, Tensor], theirs: Mapping[int, Tensor]) -> Sequence[float]:
    """Relative Frobenius distance by layer."""
    return [float(torch.linalg.norm(ours[layer] - theirs[layer]) / torch.linalg.norm(theirs[layer])) for layer in sorted(theirs)]


if __name__ == "__main__":
    main()
