"""Networks that rewrite keys and gradients: what they begin as, what they are trained on, and their training."""

from pathlib import Path

import pytest
import torch

from d4s.artifacts import Artifact, StageJob, write_table
from d4s.config import FactsSettings
from d4s.editors import hypernetwork_training
from d4s.editors.editor_settings import resolve
from d4s.editors.fact_pool import FactsToLearn
from d4s.editors.gradient_session import sum_changes
from d4s.editors.hypernetwork import PREFIX, RATES, RIDGES, TrainedRule, begin
from d4s.editors.hypernetwork_episodes import Episodes, Turn
from d4s.editors.hypernetwork_training import NetworkTraining, train_hypernetwork
from d4s.editors.lifelong_statistics import shapes_of, take_statistics
from d4s.editors.parts.hypernetwork_settings import HypernetworkSettings, TrainedNetwork
from d4s.editors.parts.input_settings import PrepareSettings
from d4s.editors.preparation import prepare, prepare_tensors
from d4s.editors.training_checkpoints import Checkpoint
from d4s.errors import ArtifactError, D4SError, SettingsError
from d4s.facts.record import to_rows
from d4s.schemas import FACTS
from tests.cases import POOL, case_for, settings_for
from tests.tiny import CITIES, tiny_facts, tiny_model

FACTS_TO_LEARN = FactsToLearn.of(POOL.pool, POOL.measured, 100, "a test")
LEARNS = TrainedNetwork(rank=2, edits=3, steps=6, rate_lr=1e-2, check_every=2)
SETTINGS = HypernetworkSettings(layers=(0, 1), change="outer_product", lr=1e-4, network=LEARNS)


def with_network(**changes) -> HypernetworkSettings:
    return SETTINGS.model_copy(update={"network": LEARNS.model_copy(update=changes)})


def trained(settings: HypernetworkSettings = SETTINGS, checkpoint: Checkpoint | None = None):
    return train_hypernetwork(tiny_model(), settings, POOL.pool, POOL.measured, checkpoint)


@pytest.fixture(scope="module")
def straight():
    return trained()


# --- settings ---------------------------------------------------------------------------------------------------------


def test_a_network_says_what_is_prepared_and_has_the_statistics_of_its_training() -> None:
    settings = resolve("malmen", {}, "gpt-j-6b")
    wanted = settings.prepare_settings()
    assert settings.layers == (*range(22, 28),) and settings.required_inputs == {"prepare"} and not settings.raises_target
    assert wanted is not None and wanted.reads_pool and wanted.hypernetwork == settings.hypernetwork()
    assert PrepareSettings.model_validate(wanted.model_dump(mode="json")) == wanted
    ultra = resolve("ultraedit", {}, "mini")
    assert ultra.raises_target and ultra.hypernetwork() is None and "hypernetwork" not in PrepareSettings().model_dump(mode="json")
    with pytest.raises(SettingsError, match="statistics are those of the facts that the network is trained on"):
        resolve("mine", {"preset": "malmen", "warm_up": 5}, "mini")


@pytest.mark.parametrize("name", ["mend", "malmen", "rledit"])
def test_as_many_numbers_are_trained_as_plans_count(name: str) -> None:
    settings, shapes = resolve(name, {}, "mini").hypernetwork(), [(192, 1024)] * 3
    network = settings.network.model_copy(update={"rank": 3})
    found = begin(settings.model_copy(update={"network": network}), shapes)
    ridges = 0 if name == "mend" else 3
    assert sum(tensor.numel() for tensor in found.values()) == network.entries(1024, 192, 3) - 3 + ridges
    assert (found[RATES] == settings.lr).all() and (RIDGES in found) == (name != "mend")


# --- what is drawn ----------------------------------------------------------------------------------------------------


def episodes(**changes) -> Episodes:
    return Episodes(tiny_model(), with_network(**changes).network, FACTS_TO_LEARN)


def words_of(turn: Turn) -> list[list[str]]:
    """The texts of a turn by kind, each with its target."""
    tokenizer = tiny_model().tokenizer
    kinds = (turn.requests, turn.reworded, turn.unrelated)
    return [[" ".join(tokenizer.convert_ids_to_tokens(prompt + target)) for prompt, target in pairs] for pairs in kinds]


def test_requests_are_judged_in_other_wordings_beside_facts_about_others() -> None:
    for turns in episodes(turns=2, edits=2, accumulate=2).of_step(4):
        assert len(turns) == 2
        for requests, reworded, unrelated in map(words_of, turns):
            subjects = [next(fact.subject for fact in POOL.pool if fact.subject in text) for text in requests]
            assert all(subject in text for subject, text in zip(subjects, reworded, strict=True))
            assert all(a != b and a.split()[-1] == b.split()[-1] for a, b in zip(requests, reworded, strict=True))
            assert not [text for text in unrelated for subject in subjects if subject in text]
            true = {fact.subject: fact.target_true for fact in POOL.pool}
            assert all(
                text.split()[-1] in CITIES and text.split()[-1] != true[subject] for subject, text in zip(subjects, requests, strict=True)
            )


def test_a_draw_depends_on_seed_and_step_alone() -> None:
    assert episodes().of_step(3) == episodes().of_step(3) != episodes().of_step(4)
    assert episodes(seed=1).of_step(3) != episodes().of_step(3) and episodes().held_out() == episodes().held_out()


def test_held_out_subjects_are_never_learnt_from() -> None:
    held = {fact.subject for fact in FACTS_TO_LEARN.held_out}
    drawn = [
        text for step in range(5) for turns in episodes().of_step(step) for turn in turns for texts in words_of(turn) for text in texts
    ]
    assert held and not [text for text in drawn for name in held if name in text]
    assert all(any(name in text for name in held) for turns in episodes().held_out() for turn in turns for text in words_of(turn)[0])


def test_at_most_half_of_the_facts_are_edited_in_a_row() -> None:
    (turns,) = episodes(turns=100, edits=100).of_step(0)
    assert sum(len(turn.requests) for turn in turns) <= len(FACTS_TO_LEARN.learnt) // 2


# --- training ---------------------------------------------------------------------------------------------------------


def test_training_lowers_the_loss_on_held_out_facts(straight) -> None:
    assert straight.notes["trained"] < straight.notes["untrained"] and straight.notes["steps"] == 6
    assert not torch.equal(straight.tensors[RATES], torch.full((2,), 1e-4, dtype=torch.float64))
    assert {name.partition(".")[0] for name in straight.tensors} == {"network", "statistics"}


def test_blocks_that_begin_as_the_identity_learn() -> None:
    """At 0, where all begin, the cut-off has the derivative 1: with ReLU's, 0, no block would ever change."""
    model, settings = tiny_model(), with_network(scaled="before")
    before = {name: value.clone() for name, value in model.network.state_dict().items()}
    shapes = [*shapes_of(model, settings.layers).values()]
    statistics = take_statistics(model, episodes().statistics(), settings.layers, everywhere=True)
    training = NetworkTraining(model, settings, statistics | begin(settings, shapes))
    training.learn(episodes().of_step(0))
    assert all(bool(training.trained[f"{PREFIX}16x64.{block}.b"].any()) for block in range(2))
    assert all(torch.equal(value, before[name]) for name, value in model.network.state_dict().items())
    assert not any(parameter.requires_grad for parameter in model.network.parameters())


@pytest.mark.parametrize("stopped_at", [3, 5])
def test_a_training_that_was_stopped_ends_with_the_same_bits(
    stopped_at: int, straight, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept, drawn = Checkpoint(tmp_path / "kept.safetensors", "mine"), Episodes.of_step

    def stopping(self: Episodes, step: int):
        if step == stopped_at:
            raise KeyboardInterrupt
        return drawn(self, step)

    with monkeypatch.context() as patch:
        patch.setattr(Episodes, "of_step", stopping)
        with pytest.raises(KeyboardInterrupt):
            trained(checkpoint=kept)
    found = trained(checkpoint=kept)
    assert found.notes == straight.notes and found.tensors.keys() == straight.tensors.keys()
    assert all(torch.equal(tensor, straight.tensors[name]) for name, tensor in found.tensors.items())
    with pytest.raises(ArtifactError, match="belongs to another training"):
        trained(checkpoint=Checkpoint(kept.path, "another"))


def test_training_ends_when_it_no_longer_helps_and_the_best_network_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    losses = iter([5.0, 4.0, 4.5, 4.2, 3.0])
    monkeypatch.setattr(NetworkTraining, "loss", lambda self, episodes: next(losses))
    seen: list[torch.Tensor] = []
    monkeypatch.setattr(NetworkTraining, "learn", lambda self, _: seen.append(self.trained[RATES].data.add_(1.0)))
    found = trained(with_network(check_every=1, patience=2, steps=50))
    assert found.notes == {"untrained": 5.0, "trained": 4.0, "steps": 3.0} and len(seen) == 3
    torch.testing.assert_close(found.tensors[RATES], torch.full((2,), 1e-4 + 1.0, dtype=torch.float64))


def test_a_training_that_diverges_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        hypernetwork_training, "outer_loss", lambda model, judged, layers: (float("nan"), {layer: torch.zeros(16, 64) for layer in layers})
    )
    with pytest.raises(D4SError, match=r"training of the hypernetwork diverged: the loss is nan; lower `network\.lr`"):
        trained()


# --- the stage, and records -------------------------------------------------------------------------------------------


def test_the_stage_trains_and_notes_the_losses(tmp_path: Path) -> None:
    model = tiny_model()
    for part in (model.network, model.tokenizer):
        part.save_pretrained(tmp_path / "model")
    for role, facts in {"facts": POOL.measured, "pool": POOL.pool}.items():
        write_table(tmp_path / role / "facts.parquet", to_rows(facts), FACTS)
        StageJob("facts", FactsSettings(source="tiny"), {}, tmp_path / role).write_manifest(["facts.parquet"])
    inputs = {role: tmp_path / role for role in ("model", "facts", "pool")}
    prepare(StageJob("prepared", PrepareSettings(hypernetwork=with_network(steps=2)), inputs, tmp_path / "prepared"))
    artifact = Artifact.open(tmp_path / "prepared", "prepared")
    assert {*artifact.manifest.notes["hypernetwork"]} == {"untrained", "trained", "steps"} and RATES in artifact.tensors(
        "prepared.safetensors"
    )
    assert not (tmp_path / "prepared" / "checkpoint.safetensors").exists()


def test_a_training_without_facts_is_refused() -> None:
    wanted = PrepareSettings(hypernetwork=SETTINGS)
    with pytest.raises(SettingsError, match="this editor learns how to edit from facts that nothing is measured of"):
        prepare_tensors(wanted, {}, tiny_model(), ())
    with pytest.raises(SettingsError, match="a hypernetwork learns from 4 at least"):
        train_hypernetwork(tiny_model(), SETTINGS, tiny_facts(3), tiny_facts(12))


@pytest.mark.parametrize("name", ["mend", "malmen"])
def test_a_record_taken_out_takes_its_own_change_and_no_other(name: str) -> None:
    settings = settings_for(name)
    case = case_for(settings)
    model, rule = case.make_model(), TrainedRule(settings.hypernetwork(), case.make_model(), case.prepared.extras)
    whole, own = (sum_changes(rule, model, records) for records in (case.straight.records, case.straight.records[1:2]))
    left = sum_changes(rule, model, case.straight.without({1}).records)
    for layer in settings.layers:
        torch.testing.assert_close(left[layer], whole[layer] - own[layer], rtol=0, atol=1e-12)
        assert own[layer].norm() > 0 and {f"{layer}.x", f"{layer}.v"} <= case.straight.records[0].keys()
