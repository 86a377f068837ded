"""Single edits and sweeps over layers in a resolved study: names, what is shared, what is foreseen, what is refused."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from d4s.editors.editor_settings import parse_editor
from d4s.errors import SettingsError
from d4s.models.model_shape import shape_of_model
from d4s.resources.job_estimates import ResourceEstimates
from d4s.study.plan import StudyPlan
from d4s.study.resolve import resolve
from d4s.study.rule_lookups import RuleLookups
from d4s.study_settings import Study

ROOT = Path(__file__).resolve().parents[3]
SINGLE = {"protocol": "single", "probes": ["efficacy", "text"]}


def _plan(*rows: dict[str, Any], **changes: Any) -> StudyPlan:
    plain = {"models": ["mini"], "datasets": ["world_qa"], "editors": ["d4s"], "lengths": [20]}
    study = yaml.safe_load((ROOT / "params.yaml").read_text()) | {"grid": [plain | row for row in rows]} | changes
    return resolve(Study.model_validate(study))


def test_the_unedited_model_answers_what_any_cell_is_asked() -> None:
    plan = _plan({**SINGLE, "lengths": [45]}, {**SINGLE, "editors": ["memit"], "probes": ["paraphrase"]})
    requests = {cell.key.editor: cell.requests for cell in plan.singles}
    assert requests == {"d4s": 45, "memit": 20, "unedited": 45}
    probes = {cell.key.editor: cell.singles.settings["probes"] for cell in plan.singles}
    assert probes == {"d4s": ["efficacy", "text"], "memit": ["paraphrase"], "unedited": ["efficacy", "paraphrase", "text"]}
    assert not plan.cells and plan.models == ["mini"] and [*plan.facts] == ["world_qa"]
    assert "text" not in next(cell for cell in plan.singles if cell.key.editor == "memit").singles.inputs


def test_the_number_of_requests_enters_no_hash_and_comes_as_whole_blocks() -> None:
    short, long = (_plan({**SINGLE, "lengths": [length]}).of("edit_single") for length in (20, 55))
    assert {node.name for node in short} == {node.name for node in long}
    assert short[0].outputs == ("b0.json", "b1.json") and long[0].outputs[-1] == "b5.json"


def test_single_edits_share_all_but_the_edit_with_a_sequence() -> None:
    both = _plan(SINGLE, {"lengths": [20]})
    for stage in ("targets", "moments", "contexts", "baseline"):
        names = [node.label for node in both.of(stage) if node.label != "mini-s0"]  # contexts of the report on the model
        assert len({*names}) == 1
    assert len(both.of("targets")) == 1 and len(both.of("edit")) == 1
    original = {cell.key.editor: cell.singles for cell in _plan({**SINGLE, "editors": ["memit", "memit_seq"]}).singles}
    assert original["memit"].inputs["targets"].digest == original["memit_seq"].inputs["targets"].digest
    assert original["memit"].settings["editor"]["target"]["at"] == "original"


def test_a_sweep_moves_every_editor_to_every_layer_of_the_model() -> None:
    plan = _plan({**SINGLE, "editors": ["rome", "ft_m"], "sweep": {}})
    layers = shape_of_model(plan.study.models["mini"]).layers
    editors = {cell.key.editor: parse_editor(cell.singles.settings["editor"]) for cell in plan.singles}
    assert [*editors] == [name for name in editors if name == "unedited" or name.split("@")[0] in ("rome", "ft_m")]
    for layer in range(layers):
        assert editors[f"rome@{layer}"].layers == editors[f"ft_m@{layer}"].layers == (layer,)
        assert editors[f"rome@{layer}"].target.layer == layer
    (report,) = plan.of("world_report")
    assert set(report.settings["editors"]) == {"rome", "ft_m"}
    assert plan.of("moments")[0].outputs == tuple(f"l{layer}.json" for layer in range(layers))


def test_windows_are_clipped_at_both_ends() -> None:
    wide = _plan({**SINGLE, "editors": ["memit"], "sweep": {"layers": [1, 5], "window": 3}})
    layers = {cell.key.editor: cell.singles.settings["editor"].get("layers") for cell in wide.singles}
    assert layers == {"memit@1": [0, 1, 2], "memit@5": [4, 5], "unedited": None}


def test_shards_and_forecasts_cover_single_edits() -> None:
    plan = _plan({**SINGLE, "lengths": [55]}, execution={"shards": {"edit_single": 3}})
    lookups, estimates = RuleLookups(plan), ResourceEstimates(plan, has_device=False)
    node = next(cell.singles for cell in plan.singles if cell.key.editor == "d4s")
    assert [Path(path).stem for path in lookups.shards(node.name)] == ["0-1", "2-3", "4-5"]
    jobs = [*estimates.of(node)]
    assert len(jobs) == 3 and all(job.requirements.work.single > 0 and job.requirements.host_bytes > 0 for job in jobs)
    fewer = _plan({**SINGLE, "probes": ["efficacy"], "lengths": [55]}, execution={"shards": {"edit_single": 3}})
    plain = next(cell.singles for cell in fewer.singles if cell.key.editor == "d4s")
    assert next(ResourceEstimates(fewer, has_device=False).of(plain)).requirements.work.single < jobs[0].requirements.work.single


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"probes": ["efficacy"]}, "set protocol to single"),
        ({"protocol": "single"}, "need one length"),
        ({**SINGLE, "lengths": [10, 20]}, "need one length"),
        ({**SINGLE, "benchmark": "longest"}, "run no benchmark"),
        ({**SINGLE, "editors": ["unedited"], "sweep": {}}, "cannot edit layers"),
        ({**SINGLE, "editors": ["grace"], "sweep": {"window": 3}}, "take a window of 1"),
        ({**SINGLE, "sweep": {"layers": [1, 9]}}, "'d4s@9' edits layers \\[9\\]"),
        ({**SINGLE, "lengths": [9999]}, "facts to edit"),
    ],
)
def test_what_does_not_go_together_is_refused(row: dict[str, Any], message: str) -> None:
    with pytest.raises((SettingsError, ValueError), match=message):
        _plan(row)


def test_a_batch_does_not_limit_the_number_of_single_edits() -> None:
    editors = {"batches": {"preset": "memit", "batch": 7}}
    assert _plan({**SINGLE, "editors": ["batches"], "lengths": [10]}, editors=editors).singles
