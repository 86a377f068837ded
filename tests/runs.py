"""Runs of a tiny model with everything that they read."""

from pathlib import Path
from typing import Any

import torch

from d4s.artifacts import StageJob, write_json, write_table, write_tensors
from d4s.config import ContextsSettings, CorpusSettings, FactsSettings, MomentsSettings
from d4s.editors.editor_settings import resolve
from d4s.editors.moments import moments
from d4s.editors.parts.input_settings import TargetsJobSettings
from d4s.editors.target_optimisation import targets
from d4s.facts.record import to_rows
from d4s.runs.edit_stage import edit
from d4s.runs.run_settings import RunSettings
from d4s.schemas import FACTS
from tests.baselines import make_baseline
from tests.cases import SINGLE, SMALL
from tests.oracle.plain import PREFIXES
from tests.tiny import tiny_facts, tiny_model

SEED, FACT_COUNT = 3, 12


def settings_for(name: str, **changes: Any) -> RunSettings:
    small = {"ft_m": {"layer": 1, "steps": 2}, "unedited": {}, "rome": SINGLE}.get(name, SMALL)
    return RunSettings(editor=resolve("tested", {"preset": name, **small, **changes}, "mini"), seed=SEED)


def prepare_inputs(folder: Path) -> dict[str, Path]:
    """A saved tiny model with facts, prefixes, moments and targets beside it."""
    model = tiny_model()
    model.network.save_pretrained(folder / "model")
    model.tokenizer.save_pretrained(folder / "model")
    write_table(folder / "facts" / "facts.parquet", to_rows(tiny_facts(FACT_COUNT)), FACTS)
    StageJob("facts", FactsSettings(source="tiny"), {}, folder / "facts").write_manifest(["facts.parquet"])
    write_json(folder / "contexts" / "contexts.json", {"contexts": PREFIXES})
    StageJob("contexts", ContextsSettings(), {}, folder / "contexts").write_manifest(["contexts.json"])
    rows = torch.randint(2, 60, (60, 16), generator=torch.Generator().manual_seed(1), dtype=torch.int32)
    write_tensors(folder / "text" / "tokens.safetensors", {"rows": rows})
    StageJob("corpora", CorpusSettings(), {}, folder / "text").write_manifest(["tokens.safetensors"])
    inputs = {"model": folder / "model", "facts": folder / "facts", "contexts": folder / "contexts"}
    moments(
        StageJob(
            "moments", MomentsSettings(), {"model": folder / "model", "text": folder / "text"}, folder / "moments", ("l0.json", "l1.json")
        )
    )
    shared = settings_for("d4s").editor.shared_targets()
    targets(StageJob("targets", TargetsJobSettings(target=shared, seed=SEED), inputs, folder / "targets", ("b0.json",)))
    found = {"moments": folder / "moments", "targets": folder / "targets"}
    return inputs | found | {"baseline": make_baseline(inputs, folder / "baseline", FACT_COUNT, seed=SEED)}


def run(inputs: dict[str, Path], folder: Path, name: str, *lengths: int, **changes: Any) -> StageJob[RunSettings]:
    job = StageJob("runs", settings_for(name, **changes), inputs, folder, tuple(f"n{length}.json" for length in lengths))
    edit(job)
    return job
