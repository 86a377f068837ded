"""Positions and seams, on word-level, byte-level and SentencePiece-like tokenizers, with and without BOS."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from d4s.errors import ArtifactError
from d4s.models.tokens import encode, encode_pair, encode_pairs, start_of_text, subject_last_index, subject_tokens
from tests.tiny import BOS, CITIES, FIRST, LAST, bpe_tokenizer, metaspace_tokenizer, tiny_model, word_tokenizer

TOKENIZERS = {
    "word+bos": word_tokenizer(),
    "word": word_tokenizer(bos=False),
    "bytes": bpe_tokenizer(),
    "bytes+bos": bpe_tokenizer(bos=True),
    "pieces+bos": metaspace_tokenizer(),
    "pieces": metaspace_tokenizer(bos=False),
}
MODELS = {name: tiny_model(tokenizer=tokenizer) for name, tokenizer in TOKENIZERS.items()}


@pytest.fixture(params=MODELS)
def model(request):
    return MODELS[request.param]


def text_of(model, ids):
    return model.tokenizer.decode(ids, skip_special_tokens=True).strip()


@pytest.mark.parametrize(
    ("template", "subject", "before"),
    [
        ("{} lives in the city of", "Ada Moss", ""),
        ("The home town of {} is", "Ada Moss", ""),
        ("The home town is of {}", "Ada Moss", ""),
        ("Ada Moss , the job of {} is", "Ada Moss", ""),
        ("{} , the job of Ada Moss is", "Ada Moss", ""),
        ("Where does {} live ?", "Ada Moss", "Because I works . "),
        ("{} lives in the city of", "Quito", "Ada Moss lives in Quito . "),
        ("{}", "Ada", ""),
        (" {} lives in the city of", "Ada Moss", ""),
        ("  The home town of {} is", "Ada Moss", ""),
    ],
)
def test_the_position_is_the_subjects_last_token(model, template, subject, before):
    prompt = before + template.replace("{}", subject)
    ids = encode(model, prompt)
    position = subject_last_index(model, prompt, subject, template)
    up_to = before + template[: template.index("{}")] + subject
    assert text_of(model, ids[: position + 1]) == text_of(model, encode(model, up_to))
    assert len(text_of(model, ids[:position])) < len(up_to)


def test_a_subject_within_a_word_and_letters_of_several_bytes():
    model = MODELS["bytes"]
    prompt = "The town of São José is"
    position = subject_last_index(model, prompt, "São José", "The town of {} is")
    assert text_of(model, encode(model, prompt)[: position + 1]) == "The town of São José"
    position = subject_last_index(model, "Romes town is", "Rome", "{}s town is")
    ids = encode(model, "Romes town is")
    assert text_of(model, ids[: position + 1]).startswith("Rome")
    assert len(text_of(model, ids[:position])) < len("Rome")


def test_a_target_may_follow_the_filled_template(model):
    prompt = "Ada Moss lives in the city of"
    position = subject_last_index(model, prompt, "Ada Moss", "{} lives in the city of")
    assert subject_last_index(model, f"{prompt} Paris and", "Ada Moss", "{} lives in the city of") == position


@pytest.mark.parametrize(
    ("prompt", "subject", "template", "message"),
    [
        ("Ada lives in", "Ben", "{} lives in", "does not hold the template"),
        ("Ada lives in", "", "{} lives in", "must not be empty"),
        ("Ada  lives in", "Ada ", "{} lives in", "or end in a space"),
        ("Ada lives in", "Ada", "lives in", "exactly one {}"),
        ("Ada lives in", "ada", "{} lives in", "does not hold the template"),
    ],
)
def test_errors_name_prompt_and_subject(model, prompt, subject, template, message):
    with pytest.raises(ValueError, match=message) as error:
        subject_last_index(model, prompt, subject, template)
    assert repr(prompt) in str(error.value)
    assert repr(subject) in str(error.value)


def test_pairs_are_the_encoding_of_the_whole_text(model):
    prompt, target = encode_pair(model, "Ada Moss lives in the city of", "Paris")
    assert prompt + target == encode(model, "Ada Moss lives in the city of Paris")
    assert text_of(model, target) == "Paris"
    assert encode_pair(model, "Ada Moss lives in the city of ", " Paris") == (prompt, target)


def test_spaces_that_a_prompt_begins_with_stay(model):
    template = "  {} lives in the city of"
    text = template.replace("{}", "Ada Moss")
    prompt, target = encode_pair(model, text, "Paris")
    assert prompt + target == encode(model, f"{text} Paris") and text_of(model, target) == "Paris"
    assert subject_last_index(model, text, "Ada Moss", template) < len(prompt)


def test_a_prompt_ending_in_a_question_mark_gets_the_space_too():
    prompt, target = encode_pair(MODELS["bytes"], "Where does Ada live ?", "Paris")
    assert target == MODELS["bytes"].tokenizer(" Paris").input_ids
    assert prompt == encode(MODELS["bytes"], "Where does Ada live ?")


def test_after_a_line_break_there_is_no_space():
    model = MODELS["bytes"]
    prompt, target = encode_pair(model, "Ada lives in\n", "Rome")
    assert (text_of(model, prompt), model.tokenizer.decode(target)) == ("Ada lives in", "Rome")
    assert model.tokenizer.decode(encode_pair(model, "Ada lives in", "Rome")[1]) == " Rome"


def test_an_empty_prompt_is_the_start_of_text(model):
    prompt, target = encode_pair(model, "", "Paris")
    assert prompt == [model.tokenizer.bos_token_id]
    assert text_of(model, target) == "Paris"


def test_no_start_of_text_is_an_error():
    tokenizer = word_tokenizer(bos=False)
    tokenizer.bos_token = tokenizer.eos_token = None
    model = tiny_model(tokenizer=tokenizer)
    with pytest.raises(ArtifactError, match="begin with BOS or EOS, and the tokenizer has neither"):
        start_of_text(model)
    assert encode_pair(model, "Ada", "Paris")[0] == encode(model, "Ada")


def test_empty_targets_are_named(model):
    with pytest.raises(ValueError, match=r"\('Ben', ' '\)"):
        encode_pairs(model, ["Ada", "Ben"], ["Paris", " "])


def test_bos_is_there_once_where_the_tokenizer_adds_it(model):
    ids = encode(model, "Ada Moss")
    bos = model.tokenizer.convert_tokens_to_ids(BOS)
    assert ids.count(bos) == (model.tokenizer("").input_ids == [bos])
    assert encode_pairs(model, [], []) == []


@settings(max_examples=40, deadline=None)
@given(
    words=st.lists(st.sampled_from(["town", "lives", "in", "Ada", "is", ","]), max_size=4),
    subject=st.tuples(st.sampled_from(FIRST), st.sampled_from(LAST)).map(" ".join),
    after=st.lists(st.sampled_from(["town", "lives", "Ada", "Moss", "?"]), max_size=4),
    target=st.sampled_from(CITIES),
    name=st.sampled_from([*MODELS]),
)
def test_any_template_finds_its_subject(words, subject, after, target, name):
    model, template = MODELS[name], " ".join([*words, "{}", *after])
    prompt = template.replace("{}", subject)
    position = subject_last_index(model, prompt, subject, template)
    found = text_of(model, encode(model, prompt)[: position + 1])
    assert found.replace(" ", "") == (" ".join(words) + subject).replace(" ", "")
    head, tail = encode_pair(model, prompt, target)
    assert text_of(model, tail) == target
    assert subject_last_index(model, f"{prompt} {target}", subject, template) == position < len(head)


@pytest.mark.parametrize(
    ("template", "subject"), [("{} lives in the city of", "Ada Moss"), ("The home town of {} is", "Ada Moss"), ("{}", "Ada")]
)
def test_the_tokens_of_the_subject_are_those_from_its_first_to_its_last(model, template, subject):
    prompt = template.replace("{}", subject)
    ids, tokens = encode(model, prompt), subject_tokens(model, prompt, subject, template)
    assert tokens[-1] == subject_last_index(model, prompt, subject, template)
    assert text_of(model, ids[tokens.start : tokens.stop]) == subject
    assert subject.split()[0][0] not in text_of(model, ids[: tokens.start])[-1:]
