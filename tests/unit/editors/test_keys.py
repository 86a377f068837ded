import pytest
import torch

from d4s.editors.edit_requests import EditRequest
from d4s.editors.keys import average_keys, read_activations
from d4s.editors.parts.key_rule import KeySettings
from d4s.editors.parts.target_rule import TargetSettings
from d4s.editors.prompts import PromptTooLong, build_prompts, pad_ids
from d4s.models.tokens import encode
from tests.oracle.plain import PREFIXES, average_key, hidden_of, key_of, requests_of, rewritings_of
from tests.tiny import bpe_tokenizer

FAMILIES = ("gpt2", "gptj", "llama")


def asking(prompt: str = "{} lives in the city of", subject: str = "Ada Moss", target: str = "Paris") -> EditRequest:
    return EditRequest("000001:x", "x", 1, prompt.replace("{}", subject), subject, prompt, target, "Rome")


def test_a_rewriting_has_the_bare_wording_first_and_points_at_the_subjects_end(tiny_model) -> None:
    model = tiny_model()
    found = build_prompts(model, asking(), PREFIXES)
    assert len(found.prompts) == 3
    assert list(found.prompts[0].ids) == encode(model, "Ada Moss lives in the city of")
    word = model.tokenizer.convert_tokens_to_ids
    for prompt in (*found.prompts, found.kl_prompt):
        assert prompt.ids[prompt.subject_last] == word("Moss") and prompt.through_subject[-1] == word("Moss")
    assert found.prompts[1].target == (word("Paris"),) and found.kl_prompt.target == ()
    assert found.prompts[0].teacher_forced == found.prompts[0].ids


def test_a_target_of_several_tokens_is_forced_but_for_its_last(tiny_model) -> None:
    model = tiny_model(tokenizer=bpe_tokenizer())
    prompt = build_prompts(model, asking(target="Lima Cairo"), ()).prompts[0]
    assert len(prompt.target) > 1 and prompt.teacher_forced == prompt.ids + prompt.target[:-1]
    assert model.tokenizer.decode(prompt.target).strip() == "Lima Cairo"


def test_the_subject_may_stand_last_and_occur_in_the_prefix(tiny_model) -> None:
    model = tiny_model()
    found = build_prompts(model, asking("The home town of {}"), ("Ada Moss works as a pilot.",))
    assert found.prompts[0].subject_last == len(found.prompts[0].ids) - 1
    assert found.prompts[1].subject_last == len(found.prompts[1].ids) - 1


def test_prefixes_lose_their_beginning_where_the_context_is_short(tiny_model) -> None:
    model = tiny_model(positions=16)
    long = "The old city is The old city is The old city is."
    prompt = build_prompts(model, asking(), (long,)).prompts[1]
    assert len(prompt.teacher_forced) <= 16
    text = model.tokenizer.decode(prompt.ids, skip_special_tokens=True)
    assert text.endswith("Ada Moss lives in the city of") and text.split("Ada")[0].strip().endswith(".")
    assert build_prompts(model, asking(), (long,)) == build_prompts(model, asking(), (long,))


def test_a_prompt_beyond_the_context_is_refused_by_name(tiny_model) -> None:
    with pytest.raises(PromptTooLong, match=r"request 000001:x: .* 8 tokens, the model takes 6; leave the fact out"):
        build_prompts(tiny_model(positions=6), asking(), ())


def test_rows_are_filled_up_on_the_right_with_their_own_last_id() -> None:
    assert pad_ids([(1, 2, 3), (4,)], torch.device("cpu")).tolist() == [[1, 2, 3], [4, 4, 4]]


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("average", ["grouped", "plain", "unprefixed"])
def test_keys_of_a_batch_are_those_of_single_texts(tiny_model, family: str, average: str) -> None:
    model, settings = tiny_model(family, dtype=torch.float64), KeySettings(average=average)
    batch = rewritings_of(model, requests_of(4))
    found = read_activations(model, batch, (0, 2), settings)
    for layer in (0, 2):
        for row, one in enumerate(batch):
            torch.testing.assert_close(found.keys[layer][row], average_key(model, one, layer, settings), rtol=1e-5, atol=1e-7)
            torch.testing.assert_close(found.unprefixed[layer][row], key_of(model, one.prompts[0], layer), rtol=1e-5, atol=1e-7)
    assert found.hidden is None


@pytest.mark.parametrize("average", ["grouped", "plain"])
def test_keys_of_half_precision_are_averaged_in_single(average: str) -> None:
    keys = torch.randn(2, 4, 8).bfloat16()
    exact = average_keys(keys.double(), KeySettings(average=average))
    torch.testing.assert_close(average_keys(keys, KeySettings(average=average)).double(), exact, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("hook", ["block_output", "mlp_output"])
@pytest.mark.parametrize("layer", [0, 1])
def test_hidden_states_are_those_of_the_bare_prompts(tiny_model, family: str, hook: str, layer: int) -> None:
    model, target = tiny_model(family, dtype=torch.float64), TargetSettings(layer=1, hook=hook)
    batch = rewritings_of(model, requests_of(3))
    found = read_activations(model, batch, (layer,), KeySettings(), target)
    expected = torch.stack([hidden_of(model, one.prompts[0], target) for one in batch])
    torch.testing.assert_close(found.hidden, expected, rtol=1e-5, atol=1e-7)
    torch.testing.assert_close(found.keys[layer], read_activations(model, batch, (layer,), KeySettings()).keys[layer])


def test_groups_count_alike_however_many_prefixes_there_are() -> None:
    keys = torch.tensor([[[1.0], [2.0], [4.0], [6.0]]])
    assert average_keys(keys, KeySettings()).tolist() == [[2.5]]
    assert average_keys(keys, KeySettings(average="plain")).tolist() == [[3.25]]
    assert average_keys(keys, KeySettings(average="unprefixed")).tolist() == [[1.0]]
    assert average_keys(keys[:, :1], KeySettings()).tolist() == [[1.0]]
