import pytest
import torch

from d4s.editors.parts.input_settings import BackgroundSettings, LocalitySettings, PrepareSettings
from d4s.editors.preparation import prepare_tensors
from d4s.editors.side_inputs import BACKGROUND, LocalitySentences, read_layer
from d4s.models.tokens import encode
from tests.oracle.plain import requests_of

SENTENCES = PrepareSettings(locality=LocalitySettings(layer=1, count=4, tokens=5, seed=0))
MEAN = PrepareSettings(background=BackgroundSettings(layer=1, requests=2))


def test_sentences_are_written_by_the_model_with_a_seed(tiny_model) -> None:
    model = tiny_model()
    found = prepare_tensors(SENTENCES, {}, model, ())
    sentences = LocalitySentences.of(found)
    again = prepare_tensors(SENTENCES, {}, model, ())
    assert len(sentences.sentences) == 4 and all(torch.equal(tensor, again[name]) for name, tensor in found.items())
    norms = torch.cat([read_layer(model, ids, 1)[1].norm(dim=1) for ids in sentences.sentences])
    assert sentences.norm == pytest.approx(float(norms.median()))
    assert SENTENCES.reads_model and not SENTENCES.reads_requests


def test_a_request_draws_its_sentence_by_its_id_alone(tiny_model) -> None:
    sentences = LocalitySentences.of(prepare_tensors(SENTENCES, {}, tiny_model(), ()))
    drawn = {name: sentences.draw(name) for name in map(str, range(30))}
    assert drawn["7"] == sentences.draw("7") and len({*drawn.values()}) > 1


def test_the_background_is_the_mean_over_requests_of_their_mean_keys(tiny_model) -> None:
    model, requests = tiny_model(), requests_of(4)
    found = prepare_tensors(MEAN, {}, model, requests)[BACKGROUND]
    means = [read_layer(model, encode(model, request.prompt), 1)[0].double().mean(0) for request in requests[:2]]
    torch.testing.assert_close(found, sum(means) / 2)
    assert MEAN.reads_requests and "background" not in SENTENCES.model_dump(mode="json")


def test_both_need_a_model() -> None:
    with pytest.raises(ValueError, match="sentences and keys are a model's, and none was given"):
        prepare_tensors(SENTENCES, {}, None, ())
