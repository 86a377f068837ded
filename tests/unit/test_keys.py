import pytest
import torch

from d4s.editors.keys import averaged, read
from d4s.editors.parts import KeySettings, TargetSettings
from d4s.editors.prompts import PromptTooLong, padded, rewriting
from d4s.models.tokens import encode
from d4s.requests.draw import EditRequest
from tests.oracle.plain import PREFIXES, average_key, hidden_of, key_of, requests_of, rewritings_of
from tests.tiny import bpe_tokenizer

FAMILIES = ("gpt2", "gptj", "llama")


def asking(prompt: str = "{} lives in the city of", subject: str = "Ada Moss", target: str = "Paris") -> EditRequest:
    return EditRequest("000001:x", "x", 1, prompt.replace("{}", subject), subject, prompt, target, "Rome")


def test_a_rewriting_has_the_bare_wording_first_and_points_at_the_subjects_end(tiny_model) -> None:
    model = tiny_model()
    found = rewriting(model, asking(), PREFIXES)
    assert len(found.wordings) == 3
    assert list(found.wordings[0].ids) == encode(model, "Ada Moss lives in the city of")
    word = model.tokenizer.convert_tokens_to_ids
    for wording in (*found.wordings, found.essence):
        assert wording.ids[wording.lookup] == word("Moss") and wording.upto_lookup[-1] == word("Moss")
    assert found.wordings[1].target == (word("Paris"),) and found.essence.target == ()
    assert found.wordings[0].teacher_forced == found.wordings[0].ids


def test_a_target_of_several_tokens_is_forced_but_for_its_last(tiny_model) -> None:
    model = tiny_model(tokenizer=bpe_tokenizer())
    wording = rewriting(model, asking(target="Lima Cairo"), ()).wordings[0]
    assert len(wording.target) > 1 and wording.teacher_forced == wording.ids + wording.target[:-1]
    assert model.tokenizer.decode(wording.target).strip() == "Lima Cairo"


def test_the_subject_may_stand_last_and_occur_in_the_prefix(tiny_model) -> None:
    model = tiny_model()
    found = rewriting(model, asking("The home town of {}"), ("Ada Moss works as a pilot.",))
    assert found.wordings[0].lookup == len(found.wordings[0].ids) - 1
    assert found.wordings[1].lookup == len(found.wordings[1].ids) - 1


def test_prefixes_lose_their_beginning_where_the_context_is_short(tiny_model) -> None:
    model = tiny_model(positions=16)
    long = "The old city is The old city is The old city is."
    wording = rewriting(model, asking(), (long,)).wordings[1]
    assert len(wording.teacher_forced) <= 16
    text = model.tokenizer.decode(wording.ids, skip_special_tokens=True)
    assert text.endswith("Ada Moss lives in the city of") and text.split("Ada")[0].strip().endswith(".")
    assert rewriting(model, asking(), (long,)) == rewriting(model, asking(), (long,))


def test_a_prompt_beyond_the_context_is_refused_by_name(tiny_model) -> None:
    with pytest.raises(PromptTooLong, match=r"request 000001:x: .* 8 tokens, the model takes 6; leave the fact out"):
        rewriting(tiny_model(positions=6), asking(), ())


def test_rows_are_filled_up_on_the_right_with_their_own_last_id() -> None:
    assert padded([(1, 2, 3), (4,)], torch.device("cpu")).tolist() == [[1, 2, 3], [4, 4, 4]]


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("average", ["grouped", "plain", "bare"])
def test_keys_of_a_batch_are_those_of_single_texts(tiny_model, family: str, average: str) -> None:
    model, settings = tiny_model(family, dtype=torch.float64), KeySettings(average=average)
    batch = rewritings_of(model, requests_of(4))
    found = read(model, batch, (0, 2), settings)
    for layer in (0, 2):
        for row, one in enumerate(batch):
            torch.testing.assert_close(found.keys[layer][row], average_key(model, one, layer, settings), rtol=1e-5, atol=1e-7)
            torch.testing.assert_close(found.bare[layer][row], key_of(model, one.wordings[0], layer), rtol=1e-5, atol=1e-7)
    assert found.hidden is None


@pytest.mark.parametrize("average", ["grouped", "plain"])
def test_keys_of_half_precision_are_averaged_in_single(average: str) -> None:
    keys = torch.randn(2, 4, 8).bfloat16()
    exact = averaged(keys.double(), KeySettings(average=average))
    torch.testing.assert_close(averaged(keys, KeySettings(average=average)).double(), exact, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("hook", ["block_output", "mlp_output"])
@pytest.mark.parametrize("layer", [0, 1])
def test_hidden_states_are_those_of_the_bare_prompts(tiny_model, family: str, hook: str, layer: int) -> None:
    model, target = tiny_model(family, dtype=torch.float64), TargetSettings(layer=1, hook=hook)
    batch = rewritings_of(model, requests_of(3))
    found = read(model, batch, (layer,), KeySettings(), target)
    expected = torch.stack([hidden_of(model, one.wordings[0], target) for one in batch])
    torch.testing.assert_close(found.hidden, expected, rtol=1e-5, atol=1e-7)
    torch.testing.assert_close(found.keys[layer], read(model, batch, (layer,), KeySettings()).keys[layer])


def test_groups_count_alike_however_many_prefixes_there_are() -> None:
    keys = torch.tensor([[[1.0], [2.0], [4.0], [6.0]]])
    assert averaged(keys, KeySettings()).tolist() == [[2.5]]
    assert averaged(keys, KeySettings(average="plain")).tolist() == [[3.25]]
    assert averaged(keys, KeySettings(average="bare")).tolist() == [[1.0]]
    assert averaged(keys[:, :1], KeySettings()).tolist() == [[1.0]]
