import pytest
import torch

from d4s.editors import locft
from d4s.editors.answer_loss import AnswerLoss
from d4s.editors.gradient_settings import LocFT
from d4s.editors.locft import LocFTEditor
from d4s.editors.prompts import PromptTooLong
from d4s.editors.protocol import Diverged, Prepared
from d4s.errors import ArtifactError
from d4s.models.language_model import LanguageModel
from d4s.models.tokens import encode_pair
from tests.oracle.plain import requests_of
from tests.tiny import BOS

SETTINGS = LocFT(state_kind="dense", layer=1, epochs=4, lr=1e-2, batch=10)
REFIT = SETTINGS.model_copy(update={"state_kind": "refit"})


def tuned(settings: LocFT, model: LanguageModel, requests) -> tuple[dict[str, float], torch.Tensor]:
    """What a step of all requests logged, and the weight after it."""
    editor = LocFTEditor(settings)
    with editor.editing(model, Prepared(), editor.start(model, Prepared())) as session:
        log = session.step(requests, None)
        return {quantity: value for quantity, _, value in log.values}, model.weight(settings.layer).clone()


def recorded(model: LanguageModel, requests) -> tuple[LocFTEditor, object]:
    """An editor of all requests, and the state that holds them."""
    editor = LocFTEditor(REFIT)
    with editor.editing(model, Prepared(), editor.start(model, Prepared())) as session:
        session.step(requests, None)
        assert session.live() is None
        return editor, session.state()


def test_records_hold_requests_without_the_eos_and_no_weight_changes_before_the_end(tiny_model) -> None:
    model, requests = tiny_model(), requests_of(3)
    before = model.weight(1).clone()
    _, state = recorded(model, requests)
    assert torch.equal(model.weight(1), before)
    (record,) = state.records
    pairs = [encode_pair(model, request.prompt, request.target) for request in requests]
    assert record["ids"].tolist() == [token for prompt, target in pairs for token in prompt + target]
    assert record["lengths"].tolist() == [[len(prompt), len(target)] for prompt, target in pairs]


@pytest.mark.parametrize(("eos", "ends"), [(True, True), (False, False)])
def test_the_eos_ends_free_answers_and_is_never_scored(tiny_model, eos: bool, ends: bool) -> None:
    model, requests = tiny_model(width=64, scale=6.0), requests_of(3)
    editor = LocFTEditor(SETTINGS.model_copy(update={"eos": eos, "epochs": 60}))
    with editor.editing(model, Prepared(), editor.start(model, Prepared())) as session:
        log = {quantity: value for quantity, _, value in session.step(requests, None).values}
        scores = session.live().score([request.prompt for request in requests], [request.target for request in requests])
        texts = session.live().generate([request.prompt for request in requests], 6)
    assert log["target_probability_after"] == pytest.approx(float((-scores.mean_nll()).exp().mean())) and scores.exact().all()
    assert scores.mask.sum(1).tolist() == [len(encode_pair(model, request.prompt, request.target)[1]) for request in requests]
    assert ([text.strip() for text in texts] == [request.target for request in requests]) == ends


def test_every_epoch_takes_every_request_once_in_an_order_of_its_own(tiny_model, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[list[int]] = []
    select = AnswerLoss.select
    monkeypatch.setattr(AnswerLoss, "select", lambda self, rows: seen.append([*rows]) or select(self, rows))
    tuned(SETTINGS.model_copy(update={"minibatch": 2, "epochs": 3, "stop_loss": 0.0}), tiny_model(), requests_of(5))
    assert [len(rows) for rows in seen] == [2, 2, 1] * 3
    epochs = [[row for rows in seen[first : first + 3] for row in rows] for first in (0, 3, 6)]
    assert all(sorted(order) == [*range(5)] for order in epochs) and len({*map(tuple, epochs)}) > 1


def test_minibatches_of_small_loss_are_passed_over_and_epochs_end(tiny_model) -> None:
    model = tiny_model()
    log, weight = tuned(SETTINGS.model_copy(update={"stop_loss": 1e3}), model, requests_of(3))
    assert log["epochs"] == 1 and torch.equal(weight, tiny_model().weight(1))
    assert log["target_probability_before"] == log["target_probability_after"] and log["delta_norm"] == 0
    log, weight = tuned(SETTINGS, model, requests_of(3))
    assert log["epochs"] == 4 and log["target_probability_before"] < log["target_probability_after"] and log["delta_norm"] > 0


def test_only_the_one_weight_moves_and_no_gradients_stay_switched_on(tiny_model) -> None:
    model = tiny_model()
    before = {name: value.clone() for name, value in model.network.state_dict().items()}
    editor, state = recorded(model, requests_of(2))
    with torch.no_grad(), editor.edited(model, Prepared(), state):
        moved = [name for name, value in model.network.state_dict().items() if not torch.equal(value, before[name])]
    assert moved == ["transformer.h.1.mlp.c_proj.weight"]
    assert not any(parameter.requires_grad for parameter in model.network.parameters()) and not model.network.training


def test_a_broken_model_diverges_and_its_weights_come_back(tiny_model) -> None:
    model = tiny_model()
    editor, state = recorded(model, requests_of(2))
    model.set_weight(0, torch.full_like(model.weight(0), torch.nan))
    before = model.weight(1).clone()
    with pytest.raises(Diverged, match="loss of fine-tuning is not finite"), editor.edited(model, Prepared(), state):
        pass
    assert torch.equal(model.weight(1), before)


def test_a_prompt_that_fits_only_without_the_eos_is_refused_with_it(tiny_model) -> None:
    request = requests_of(1)
    prompt, target = encode_pair(tiny_model(), request[0].prompt, request[0].target)
    model = tiny_model("llama", positions=len(prompt) + len(target) - 1)
    tuned(SETTINGS.model_copy(update={"eos": False}), model, request)
    with pytest.raises(PromptTooLong, match=f"the model takes {len(prompt) + len(target) - 1}"):
        tuned(SETTINGS, model, request)


def test_a_tokenizer_without_an_eos_is_told(tiny_model) -> None:
    model = tiny_model()
    model.tokenizer.eos_token = None
    with pytest.raises(ArtifactError, match="the tokenizer has none; name it, or set eos: false"):
        locft.tune(SETTINGS, model, [([1, 2], [3])], model.weight(1).clone())
    assert model.tokenizer.bos_token == BOS
