"""What a step of ROME says of itself: the parts of its quotient, and where its subject stands."""

import pytest

from d4s.editors.edit_requests import draw_requests
from d4s.editors.families import build
from d4s.editors.hparams import merge_hparams
from d4s.editors.keys import read_activations
from d4s.editors.prompts import build_prompts
from d4s.editors.protocol import Prepared, StepLog
from d4s.models.language_model import LanguageModel
from tests.cases import SINGLE
from tests.oracle.plain import PREFIXES
from tests.runs import settings_for
from tests.tiny import tiny_facts, tiny_model, word_tokenizer

NAMES = ("numerator_norm", "denominator", "direction_norm", "key_cosine", "delta_norm")
AT_CURRENT = merge_hparams(SINGLE, {"target": {"at": "current"}, "preservation": {"kind": "identity"}})


def step(model: LanguageModel, name: str) -> tuple[StepLog, float, float]:
    """The log of a first step, its k·u computed apart, and the cosine of its two keys."""
    settings = settings_for(name, **AT_CURRENT).editor
    (request, _), *_ = draw_requests(tiny_facts(4), 0)
    prompts = build_prompts(model, request, PREFIXES)
    found = read_activations(model, [prompts], settings.layers, settings.keys)
    key, unprefixed = (keys[settings.layers[0]][0].double() for keys in (found.keys, found.unprefixed))
    met = key if settings.keys.shared_key else unprefixed
    cosine = float(key @ unprefixed / key.norm() / unprefixed.norm())
    editor, prepared = build(settings), Prepared(contexts=PREFIXES)
    with editor.editing(model, prepared, editor.start(model, prepared)) as session:
        return session.step([request], None), float(key @ met), cosine


def numbers(log: StepLog) -> dict[str, float]:
    return {quantity: value for quantity, _, value in log.values}


@pytest.mark.parametrize("name", ["rome", "rome_identity", "r_rome"])
def test_the_change_is_the_quotient_that_the_log_tells(name: str) -> None:
    log, product, cosine = step(tiny_model(), name)
    found = numbers(log)
    assert set(NAMES) <= set(found)
    expected = found["numerator_norm"] * found["direction_norm"] / found["denominator"]
    assert found["delta_norm"] == pytest.approx(expected, rel=1e-6)
    assert found["key_cosine"] == pytest.approx(cosine, rel=1e-6)
    assert found["denominator"] == pytest.approx(abs(product), rel=1e-4)  # with C = I up to the weight of the identity
    if name == "r_rome":
        assert product > 0


@pytest.mark.parametrize(("bos", "start"), [(True, 1), (False, 0)])
def test_the_log_tells_where_the_subject_stands(bos: bool, start: int) -> None:
    (request, _), *_ = draw_requests(tiny_facts(4), 0)
    before = len(request.template.partition("{}")[0].split())
    found = numbers(step(tiny_model(tokenizer=word_tokenizer(bos)), "rome")[0])
    assert (found["subject_start"], found["subject_tokens"]) == (start + before, len(request.subject.split()))


def test_editors_that_spread_a_residual_say_nothing_of_a_quotient() -> None:
    settings = settings_for("memit", **AT_CURRENT).editor
    (request, _), *_ = draw_requests(tiny_facts(4), 0)
    model, editor, prepared = tiny_model(), build(settings), Prepared(contexts=PREFIXES)
    with editor.editing(model, prepared, editor.start(model, prepared)) as session:
        assert not {*NAMES[:3], "subject_start"} & set(numbers(session.step([request], None)))
