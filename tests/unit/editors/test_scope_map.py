"""Balanced loss, examples of scopes, encoders, the trained map, and answers trained in context."""

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import BertConfig, BertModel

from d4s.artifacts import Artifact, StageJob, write_table
from d4s.config import FactsSettings
from d4s.editors import answer_training
from d4s.editors.answer_training import PREFIX, answering_model, context_loss, texts_of_step, train_answers
from d4s.editors.fact_pool import wordings_of
from d4s.editors.memory_texts import context_of
from d4s.editors.parts.input_settings import PrepareSettings
from d4s.editors.parts.scope_settings import FolderEncoder, HashedEncoder, HiddenEncoder, ScopeSettings, TrainedAnswer
from d4s.editors.preparation import prepare, prepare_tensors
from d4s.editors.scope_encoders import encoder_of
from d4s.editors.scope_examples import scope_examples
from d4s.editors.scope_map import MAP, ScopeMap, balanced_loss, held_out_rates, train_map
from d4s.editors.training_checkpoints import Checkpoint
from d4s.errors import ArtifactError, SettingsError
from d4s.facts.record import to_rows
from d4s.models.tokens import encode
from d4s.models.trace import trace
from d4s.schemas import FACTS
from tests.tiny import tiny_facts, tiny_model, word_tokenizer

HIDDEN = HiddenEncoder(layer=1)
SETTINGS = ScopeSettings(encoder=HIDDEN, width=16, epochs=150, patience=30, lr=1e-2, context="{prompt} {target} . ")
MEASURED = tiny_facts(12)
APART = [tiny_facts(48)[place] for place in (20, 22, 25, 27, 28, 30, 33, 35, 36, 38, 41, 43, 45, 47)]
"""Names of which many others can be made up that neither stand here nor are measured."""
POOL = [replace(fact, relation="job") if number % 2 else fact for number, fact in enumerate(APART)]
TRAINED = SETTINGS.model_copy(update={"answer": TrainedAnswer(steps=6, rows=3), "epochs": 1})
PROMPTS = ["Ada Moss lives in the city of", "The job of Ben Reed is", "Eva"]


# --- the loss ---------------------------------------------------------------------------------------------------------


def test_the_loss_is_that_of_a_hand_computation() -> None:
    inside, outside = torch.tensor([0.9, 0.5]).log(), torch.tensor([0.2, 0.6, 0.1]).log()
    by_hand = -(math.log(0.9) + math.log(0.5)) / 2 - (math.log(0.8) + math.log(0.4) + math.log(0.9)) / 3
    assert float(balanced_loss(inside, outside)) == pytest.approx(by_hand, rel=1e-6)


def test_the_loss_is_balanced_and_finite() -> None:
    inside, outside = torch.tensor([-0.1, -0.7]), torch.tensor([-1.0, -3.0])
    assert balanced_loss(inside.repeat(5), outside) == pytest.approx(balanced_loss(inside, outside))
    assert math.isfinite(balanced_loss(torch.zeros(2), torch.zeros(2)))


# --- examples ---------------------------------------------------------------------------------------------------------


def test_nothing_measured_is_learnt_from() -> None:
    examples = scope_examples(SETTINGS, [*POOL, *MEASURED], MEASURED)
    prompts = "\n".join(
        text for fact in MEASURED for text in (fact.prompt, *fact.paraphrases, *(probe.prompt for probe in fact.neighborhood))
    )
    named = {fact.subject for fact in [*tiny_facts(48)] if fact.subject in prompts}
    assert len(named) > 12 and not [text for text in examples.texts for name in named if name in text]
    assert {one.fact.subject for one in examples.learnt} & {one.fact.subject for one in examples.held_out} == set()
    assert len(examples.learnt) == 12 and len(examples.held_out) == 2


def test_a_pool_of_what_is_measured_is_refused() -> None:
    with pytest.raises(SettingsError, match=r"only 0 subjects of 12 facts of the pool .*world\.reserve"):
        scope_examples(SETTINGS, MEASURED, MEASURED)


def test_near_misses_share_the_subject_or_a_part_of_the_name() -> None:
    subjects = [fact.subject for fact in POOL]
    both = [replace(fact, fact_id=f"{fact.fact_id}.job", relation="other", template="{} works as a") for fact in POOL]
    learnt = scope_examples(SETTINGS, [*POOL, *both], MEASURED).learnt
    assert sum(bool(one.shared_name) for one in learnt) > len(learnt) / 2  # of some, every name that could be made up stands here
    for one in learnt:
        assert all(one.fact.subject in text for text in one.same_subject) and set(one.same_subject) & set(one.wordings) <= set(
            one.fact.paraphrases
        )
        assert not [text for text in one.shared_name for name in subjects if name in text]
        words = one.fact.subject.split()
        assert all(words[0] in text or words[1] in text for text in one.shared_name)


def test_examples_do_not_depend_on_the_order_of_the_pool() -> None:
    assert scope_examples(SETTINGS, POOL[::-1], MEASURED).texts == scope_examples(SETTINGS, POOL, MEASURED).texts


# --- encoders ---------------------------------------------------------------------------------------------------------


def test_hidden_states_are_averaged_without_bos() -> None:
    model = tiny_model()
    found = encoder_of(HIDDEN, model)([*PROMPTS, PROMPTS[0]])
    for row, prompt in zip(found, PROMPTS, strict=False):
        with trace({1: model.block(1)}) as seen:
            model.network(torch.tensor([encode(model, prompt)]))
        torch.testing.assert_close(row, seen.outputs[1][0, 1:].mean(0), rtol=1e-4, atol=1e-5)
    assert torch.equal(found[0], found[3])
    last = encoder_of(HIDDEN.model_copy(update={"pool": "last"}), model)(PROMPTS)
    torch.testing.assert_close(last[2], found[2], rtol=1e-4, atol=1e-5)


def test_hashed_words_need_no_model_and_no_case() -> None:
    found = encoder_of(HashedEncoder(buckets=512), tiny_model())(["Ada lives", "ada LIVES", "lives Ada", "Rome"])
    assert torch.equal(found[0], found[1]) and not torch.equal(found[0], found[2])
    assert found[0] @ found[2] == pytest.approx(2 / 3, abs=1e-6) and found[0] @ found[3] == 0


def test_a_sentence_encoder_is_read_from_a_folder(tmp_path: Path) -> None:
    tokenizer = word_tokenizer(bos=False)
    config = BertConfig(vocab_size=len(tokenizer), hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8)
    network = BertModel(config, add_pooling_layer=False).eval()
    for part in (network, tokenizer):
        part.save_pretrained(tmp_path)
    found = encoder_of(FolderEncoder(path=str(tmp_path)), tiny_model())(PROMPTS)
    alone = network(input_ids=torch.tensor([tokenizer(PROMPTS[1])["input_ids"]])).last_hidden_state.mean(1)
    torch.testing.assert_close(found[1], alone[0].detach(), rtol=1e-4, atol=1e-5)
    with pytest.raises(ArtifactError, match="is no folder"):
        encoder_of(FolderEncoder(path=str(tmp_path / "none")), tiny_model())


# --- the map ----------------------------------------------------------------------------------------------------------


def test_a_trained_map_tells_subjects_apart() -> None:
    model = tiny_model()
    examples = scope_examples(SETTINGS, POOL, MEASURED)
    vectors = encoder_of(HIDDEN, model)([*examples.texts])
    router = train_map(SETTINGS, examples, vectors)
    again = train_map(SETTINGS, examples, vectors)
    assert torch.equal(router.matrix, again.matrix) and torch.equal(router.scale, again.scale)
    unlike = train_map(SETTINGS.model_copy(update={"seed": 1}), examples, vectors)
    assert not torch.equal(router.matrix, unlike.matrix)
    before = train_map(SETTINGS.model_copy(update={"epochs": 1, "lr": 1e-9}), examples, vectors)
    rates, untrained = (held_out_rates(SETTINGS, one, examples, vectors) for one in (router, before))
    assert rates.keys() == {"recall", "precision_shared_name", "precision_far"} and all(0 <= rate <= 1 for rate in rates.values())
    assert rates["precision_far"] + rates["recall"] > untrained["precision_far"] + untrained["recall"]
    fixed = train_map(SETTINGS.model_copy(update={"scale": 1.0}), examples, vectors)
    assert float(fixed.scale) == pytest.approx(1.0)


def test_similarity_falls_with_squared_distance() -> None:
    router = ScopeMap(torch.eye(2), torch.tensor(0.5))
    left, right = router.embed(torch.tensor([[0.0, 0.0]])), router.embed(torch.tensor([[1.0, 2.0]]))
    assert float(router.log_similarity(left, right).exp()) == pytest.approx(math.exp(-0.5 * 5))
    assert ScopeMap.of(router.tensors()).matrix is router.tensors()[MAP]


# --- answers in context -----------------------------------------------------------------------------------------------


def test_texts_are_edits_before_another_wording_with_targets_of_the_relation() -> None:
    model, facts = tiny_model(), POOL
    texts = texts_of_step(model, TRAINED, facts, 3)
    assert texts == texts_of_step(model, TRAINED, facts, 3) != texts_of_step(model, TRAINED, facts, 4)
    for prompt, target in texts:
        text, answer = model.tokenizer.decode(prompt), model.tokenizer.decode(target)
        owner = next(fact for fact in facts if fact.subject in text)
        assert any(text.endswith(wording) for wording in wordings_of(owner)) and f"{answer} . " in text
        assert answer in {fact.target_true for fact in facts if fact.relation == owner.relation}
    assert context_of("{prompt} {target}. ", "Ada lives in ", " Rome") == "Ada lives in Rome. "


def test_the_loss_is_on_the_targets_alone() -> None:
    model = tiny_model()
    texts = texts_of_step(model, TRAINED, POOL, 0)
    by_hand = []
    for prompt, target in texts:
        log_probs = model.network(torch.tensor([[*prompt, *target]])).logits[0].log_softmax(-1)
        by_hand += [-float(log_probs[len(prompt) - 1 + place, token]) for place, token in enumerate(target)]
    assert float(context_loss(model, texts)) == pytest.approx(sum(by_hand) / len(by_hand), rel=1e-5)


def test_an_interrupted_training_ends_with_the_same_bits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, whole = tiny_model(), train_answers(tiny_model(), TRAINED, POOL, None)
    monkeypatch.setattr(answer_training, "CHECKPOINT_EVERY", 2)
    kept, steps = Checkpoint(tmp_path / "kept.safetensors", "mine"), []

    def stopping(*args):
        steps.append(args)
        if len(steps) == 5:
            raise KeyboardInterrupt
        return texts_of_step(*args)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(answer_training, "texts_of_step", stopping)
        train_answers(model, TRAINED, POOL, kept)
    resumed = train_answers(model, TRAINED, POOL, kept)
    assert resumed.keys() == whole.keys() and all(torch.equal(resumed[name], whole[name]) for name in whole)
    assert any(not torch.equal(whole[f"{PREFIX}{name}"], weight) for name, weight in model.network.named_parameters())
    with pytest.raises(ArtifactError, match="belongs to another training"):
        train_answers(model, TRAINED, POOL, replace(kept, identity="other"))
    found = answering_model(model, TRAINED.answer, whole)
    assert all(torch.equal(weight, whole[f"{PREFIX}{name}"]) for name, weight in found.network.named_parameters())
    assert answering_model(model, SETTINGS.answer, {}) is model


def test_answers_may_begin_from_another_model_with_the_same_tokenizer(tmp_path: Path) -> None:
    other = tiny_model(seed=3)
    for name, tokenizer in {"same": other.tokenizer, "other": word_tokenizer(bos=True)}.items():
        if name == "other":
            tokenizer.add_tokens(["extra"])
            other.network.resize_token_embeddings(len(tokenizer))
        for part in (other.network, tokenizer):
            part.save_pretrained(tmp_path / name)
    of = {name: TRAINED.model_copy(update={"answer": TrainedAnswer(start=str(tmp_path / name), steps=1)}) for name in ("same", "other")}
    assert of["same"].folders == (str(tmp_path / "same"),)
    assert train_answers(tiny_model(), of["same"], POOL, None)
    with pytest.raises(SettingsError, match="has another tokenizer"):
        train_answers(tiny_model(), of["other"], POOL, None)


# --- the stage --------------------------------------------------------------------------------------------------------


def test_the_stage_writes_what_was_trained_and_its_rates(tmp_path: Path) -> None:
    model = tiny_model()
    for part in (model.network, model.tokenizer):
        part.save_pretrained(tmp_path / "model")
    for role, facts in {"facts": MEASURED, "pool": POOL}.items():
        write_table(tmp_path / role / "facts.parquet", to_rows(facts), FACTS)
        StageJob("facts", FactsSettings(source="tiny"), {}, tmp_path / role).write_manifest(["facts.parquet"])
    inputs = {role: tmp_path / role for role in ("model", "facts", "pool")}
    prepare(StageJob("prepared", PrepareSettings(scope=TRAINED), inputs, tmp_path / "prepared"))
    artifact = Artifact.open(tmp_path / "prepared", "prepared")
    assert artifact.manifest.notes["router"].keys() == {"recall", "precision_shared_name", "precision_far"}
    tensors = artifact.tensors("prepared.safetensors")
    assert len(tensors["scope.prompts"]) == 36 and not (tmp_path / "prepared" / "checkpoint.safetensors").exists()


def test_without_a_study_there_is_nothing_to_learn_from() -> None:
    with pytest.raises(SettingsError, match=r"run a study that sets facts apart \(grids/memory\.yaml does\)"):
        prepare_tensors(PrepareSettings(scope=SETTINGS), {}, tiny_model(), ())
