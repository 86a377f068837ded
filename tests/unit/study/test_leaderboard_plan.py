"""The studies of the leaderboard as plans: every preset that can be there is, in as many draws as its row asks for."""

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import yaml

from d4s.analysis.display_names import REFERENCES
from d4s.editors.editor_settings import resolve as resolve_editor
from d4s.editors.presets import PRESETS
from d4s.errors import SettingsError
from d4s.study.grid_cells import lengths_by_cell
from d4s.study.resolve import resolve
from d4s.study_settings import GridRow, Study, load_study

ROOT = Path(__file__).resolve().parents[3]


def grid(name: str) -> Study:
    return load_study(ROOT / "grids" / f"{name}.yaml")


def has_all(preset: str, column: str) -> bool:
    """Whether a preset has values for a model, and learns from no facts beside its requests, which records lack."""
    try:
        prepared = resolve_editor(preset, {}, column).prepare_settings()
    except SettingsError:
        return False
    return prepared is None or not prepared.reads_pool


def test_every_preset_is_on_the_embedded_model_in_three_draws() -> None:
    plan = resolve(grid("leaderboard"))
    assert Counter(cell.key.editor for cell in plan.cells) == dict.fromkeys(PRESETS, 3)
    assert {cell.lengths for cell in plan.cells if cell.key.editor != "saul_mass"} == {(10, 100, 300)}
    assert plan.study.leaderboard and all(cell.free_answers for cell in plan.cells)


def test_every_preset_with_values_is_on_the_real_model(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    study = grid("leaderboard_smollm2")
    column = study.models["smollm2"].hparams_for
    cells = Counter((key.dataset, key.editor) for key in lengths_by_cell(study))
    assert {editor for _, editor in cells} == {preset for preset in PRESETS if has_all(preset, column)}
    thrice = {editor for (_, editor), draws in cells.items() if draws == 3}
    assert {*cells.values()} == {1, 3} and len(thrice - {*REFERENCES}) == 10
    assert all(cells["counterfact", editor] == draws for (_, editor), draws in cells.items())


def test_a_row_has_draws_of_its_own_and_nothing_else_changes() -> None:
    row: dict[str, Any] = {"models": ["mini"], "datasets": ["world_qa"], "editors": ["rome"], "lengths": [10]}
    study = yaml.safe_load((ROOT / "params.yaml").read_text()) | {"editors": {}, "seeds": [1]}
    one, more = (resolve(Study.model_validate(study | {"grid": [row | change]})) for change in ({}, {"seeds": [1, 2]}))
    assert [cell.key.seed for cell in more.cells] == [1, 2] and more.cells[0].run.name == one.cells[0].run.name
    assert "seeds" not in GridRow.model_validate(row).model_dump() and "leaderboard" not in one.study.model_dump()
    with pytest.raises(ValueError, match="single edits have the draws of the study"):
        GridRow.model_validate(row | {"protocol": "single", "probes": ["efficacy"], "seeds": [1]})
