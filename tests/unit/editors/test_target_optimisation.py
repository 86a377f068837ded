from pathlib import Path

import pytest
import torch

from d4s.artifacts import Artifact, StageJob, write_json, write_table
from d4s.config import ContextsSettings, FactsSettings
from d4s.editors import target_optimisation as stage
from d4s.editors.edit_requests import draw_requests
from d4s.editors.parts.input_settings import TargetsJobSettings
from d4s.editors.parts.target_rule import AnchorSettings, TargetSettings
from d4s.editors.prompts import build_prompts
from d4s.editors.protocol import Targets
from d4s.editors.target_optimisation import Shifts, anchor_norm, optimise, read_targets, rescale_targets, targets
from d4s.errors import ArtifactError
from d4s.facts.record import to_rows
from d4s.models.language_model import LanguageModel
from d4s.schemas import FACTS
from tests.oracle.plain import PREFIXES, requests_of, rewritings_of
from tests.tiny import tiny_facts, tiny_model

SETTINGS = TargetSettings(layer=1, at="original", steps=3, clamp=2.0)
FIELDS = ("hidden_shift", "hidden", "mlp_output", "probability_before", "probability_after", "steps")


def test_shifts_are_those_of_adam_with_a_clamp() -> None:
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(3, 1, 5, generator=generator, dtype=torch.float64)
    shifts = Shifts(torch.zeros_like(hidden), hidden.norm(dim=2), TargetSettings(layer=0, lr=0.3, clamp=0.8))
    plain = torch.zeros(3, 1, 5, dtype=torch.float64, requires_grad=True)
    adam = torch.optim.Adam([plain], lr=0.3)
    for step in range(1, 6):
        gradient = torch.randn(3, 1, 5, generator=generator, dtype=torch.float64)
        plain.grad = gradient.clone()
        adam.step()
        with torch.no_grad():
            limit = 0.8 * hidden.norm(dim=2, keepdim=True)
            plain.mul_(
                torch.where(plain.norm(dim=2, keepdim=True) > limit, limit / plain.norm(dim=2, keepdim=True), torch.ones(3, 1, 1).double())
            )
        shifts.update(torch.arange(3), gradient, step)
        torch.testing.assert_close(shifts.value, plain.detach())
    assert float((shifts.value.norm(dim=2) / hidden.norm(dim=2)).max()) == pytest.approx(0.8)


def test_stopped_shifts_stay_where_they_are() -> None:
    shifts = Shifts(torch.zeros(3, 1, 4), torch.full((3, 1), 2.0), TargetSettings(layer=0))
    shifts.update(torch.tensor([0, 2]), torch.ones(2, 1, 4), 1)
    assert shifts.value[1].abs().sum() == 0 and shifts.value[0].abs().sum() > 0


def test_the_best_the_loss_can_do_is_bounded_by_the_clamp(tiny_model) -> None:
    model = tiny_model(dtype=torch.float64)
    batch = rewritings_of(model, requests_of(4))
    tight, loose = (optimise(model, batch, SETTINGS.model_copy(update={"clamp": clamp, "steps": 8})) for clamp in (0.1, 3.0))
    for found, clamp in ((tight, 0.1), (loose, 3.0)):
        assert float((found.hidden_shift.norm(dim=1) / found.hidden.norm(dim=1)).max()) <= clamp * (1 + 1e-9)
    assert loose.probability_after.mean() > tight.probability_after.mean() > tight.probability_before.mean()


def test_passes_limited_in_size_change_nothing(tiny_model, monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_model(dtype=torch.float64)
    batch = rewritings_of(model, requests_of(5))
    whole = optimise(model, batch, SETTINGS)
    monkeypatch.setattr(stage, "ACTIVATIONS_PER_PASS", 1)
    single = optimise(model, batch, SETTINGS)
    for name in FIELDS:
        torch.testing.assert_close(getattr(single, name), getattr(whole, name), rtol=1e-9, atol=1e-9)


def test_nothing_is_left_behind_in_the_model(tiny_model) -> None:
    model = tiny_model()
    before = {name: value.clone() for name, value in model.network.state_dict().items()}
    optimise(model, rewritings_of(model, requests_of(2)), SETTINGS)
    assert all(torch.equal(value, before[name]) for name, value in model.network.state_dict().items())
    assert not any(parameter.requires_grad or parameter.grad is not None for parameter in model.network.parameters())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.network.modules())


def test_half_precision_models_get_single_precision_targets(tiny_model) -> None:
    model = tiny_model(dtype=torch.bfloat16)
    found = optimise(model, rewritings_of(model, requests_of(2)), SETTINGS)
    assert found.hidden_shift.dtype == found.hidden.dtype == torch.float32 and found.hidden_shift.isfinite().all()


# --- the stage --------------------------------------------------------------------------------------------------------


@pytest.fixture
def inputs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Path]:
    monkeypatch.setattr(stage, "load", lambda folder: tiny_model())
    monkeypatch.setattr(stage, "REQUESTS_PER_BLOCK", 3)
    write_table(tmp_path / "f" / "facts.parquet", to_rows(tiny_facts(8)), FACTS)
    StageJob("facts", FactsSettings(source="tiny"), {}, tmp_path / "f").write_manifest(["facts.parquet"])
    write_json(tmp_path / "c" / "contexts.json", {"contexts": PREFIXES})
    StageJob("contexts", ContextsSettings(), {}, tmp_path / "c").write_manifest(["contexts.json"])
    return {"model": tmp_path / "m", "facts": tmp_path / "f", "contexts": tmp_path / "c"}


def job(inputs: dict[str, Path], folder: Path, *blocks: int) -> StageJob[TargetsJobSettings]:
    return StageJob("targets", TargetsJobSettings(target=SETTINGS, seed=4), inputs, folder, tuple(f"b{block}.json" for block in blocks))


def test_blocks_do_not_depend_on_which_are_asked_for(inputs: dict[str, Path], tmp_path: Path) -> None:
    targets(job(inputs, tmp_path / "whole", 0, 1, 2))
    targets(job(inputs, tmp_path / "shards", 2))
    targets(job(inputs, tmp_path / "shards", 0))
    for block in (0, 2):
        name = f"b{block}.safetensors"
        assert (tmp_path / "shards" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    assert not (tmp_path / "shards" / "b1.safetensors").exists()


def test_targets_are_read_in_the_order_of_the_sequence(inputs: dict[str, Path], tmp_path: Path) -> None:
    targets(job(inputs, tmp_path / "t", 0, 1, 2))
    requests = [request for request, _ in draw_requests(tiny_facts(8), 4)]
    found = read_targets(tmp_path / "t", requests[:7])
    model = tiny_model()
    expected = Targets.concatenate([optimise(model, rewritings_of(model, requests[first : first + 3]), SETTINGS) for first in (0, 3, 6)])[
        :7
    ]
    for name in FIELDS:
        assert torch.equal(getattr(found, name), getattr(expected, name))
    assert Artifact.open(tmp_path / "t", "targets", "b2.json").manifest.notes["requests"] == [
        request.request_id for request in requests[6:]
    ]


def test_blocks_that_are_whole_are_not_computed_again(inputs: dict[str, Path], tmp_path: Path) -> None:
    targets(job(inputs, tmp_path / "t", 0, 1))
    kept, torn = tmp_path / "t" / "b0.safetensors", tmp_path / "t" / "b1.safetensors"
    whole, time = torn.read_bytes(), kept.stat().st_mtime_ns
    torn.write_bytes(whole[:-4])
    targets(job(inputs, tmp_path / "t", 0, 1))
    assert kept.stat().st_mtime_ns == time and torn.read_bytes() == whole


def test_targets_of_other_requests_are_refused(inputs: dict[str, Path], tmp_path: Path) -> None:
    targets(job(inputs, tmp_path / "t", 0))
    others = [request for request, _ in draw_requests(tiny_facts(8), seed=5, count=3)]
    with pytest.raises(ArtifactError, match="holds targets of other requests in block 0"):
        read_targets(tmp_path / "t", others)
    with pytest.raises(ArtifactError, match=r"holds no b1\.json"):
        read_targets(tmp_path / "t", [request for request, _ in draw_requests(tiny_facts(8), 4, 4)])


def steerable(tiny_model) -> LanguageModel:
    """A model whose answers a shift can change: its weights are large."""
    model = tiny_model("gptj", dtype=torch.float64)
    with torch.no_grad():
        for parameter in model.network.parameters():
            parameter.mul_(6.0 if parameter.ndim > 1 else 1.0)
    return model


FREE = SETTINGS.model_copy(update={"steps": 25, "clamp": 30.0, "lr": 2.0, "stop_loss": 0.0, "weight_decay": 0.0, "kl_weight": 0.0})


def test_requests_stop_so_many_steps_after_their_target_is_most_likely(tiny_model) -> None:
    model = steerable(tiny_model)
    batch = rewritings_of(model, requests_of(6))
    at_once, later = (optimise(model, batch, FREE.model_copy(update={"stop_top1": extra})).steps for extra in (0, 2))
    reached = at_once < 24
    assert reached.any() and torch.equal(later[reached], at_once[reached] + 2) and (later[~reached] == 24).all()


def test_settled_requests_may_stop_once_the_essence_stays(tiny_model) -> None:
    model = steerable(tiny_model)
    batch = rewritings_of(model, requests_of(6))
    anyhow, never = (optimise(model, batch, FREE.model_copy(update={"top1_divergence": bound})).steps for bound in (1e6, 0.0))
    assert torch.equal(anyhow, optimise(model, batch, FREE.model_copy(update={"stop_top1": 0})).steps)
    assert (never == 24).all()


def test_the_loss_of_settled_targets_weighs_less(tiny_model) -> None:
    model = steerable(tiny_model)
    batch = rewritings_of(model, requests_of(6))
    full, less = (optimise(model, batch, FREE.model_copy(update={"top1_weight": weight})) for weight in (1.0, 0.1))
    settled = optimise(model, batch, FREE.model_copy(update={"stop_top1": 0})).steps < 24
    assert (less.probability_after[settled] < full.probability_after[settled]).all()
    torch.testing.assert_close(less.hidden_shift[~settled], full.hidden_shift[~settled])


def test_anchored_targets_have_the_usual_norm_or_no_shift() -> None:
    goal = Targets(*(torch.tensor(rows) for rows in ([[3.0, 0.0], [0.0, 9.0]], [[1.0, 1.0]] * 2, [[1.0, 0.0]] * 2)), *(torch.ones(2),) * 3)
    found = rescale_targets(goal, 2.0, 2.0)
    torch.testing.assert_close((found.mlp_output + found.hidden_shift).norm(dim=1), torch.tensor([2.0, 1.0]))
    assert found.hidden_shift[1].abs().sum() == 0 and torch.equal(found.hidden, goal.hidden)


def test_the_anchor_leaves_the_largest_norms_out(tiny_model) -> None:
    model = tiny_model(dtype=torch.float64)
    goal = optimise(model, [build_prompts(model, request, ()) for request in requests_of(6)], SETTINGS)
    norms = (goal.mlp_output + goal.hidden_shift).norm(dim=1).sort().values
    found = anchor_norm(model, requests_of(6), SETTINGS, AnchorSettings(requests=6, drop=0.2))
    assert found == pytest.approx(float(norms[:4].mean()))
