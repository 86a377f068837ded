"""What stands between a prompt and its target, decided by one function and followed by scoring, writing and editing alike."""

import ast
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from d4s.editors.edit_requests import EditRequest
from d4s.editors.prompts import build_prompts
from d4s.facts.joining import Joiner, target_delimiter, with_delimiter
from d4s.models.language_model import LanguageModel
from d4s.models.tokens import encode, encode_pair, encode_prompts
from d4s.models.views import LiveModel
from tests.tiny import TEMPLATES, bpe_tokenizer, metaspace_tokenizer, tiny_model

SOURCES = Path(__file__).parents[3] / "src" / "d4s"
SPACED = (
    *TEMPLATES, "Where does Ada live ?", "Ada said:", "the price is $", "Ada lives at 5", "the home of 🦊", "the town (Oslo)",  # plain
    '{} is called "Ada"', "what she calls 'home'", "it is “home”", "er sagt „ja“", "il dit « oui »", "the Smiths'", "l'eau de l’",  # closed
    "Oslo -", "Oslo —", "서울은", "\u200fמשה\u200f", "مدينة روما هي", "the letters (東京)",
)  # fmt: skip
UNSPACED = (
    '{} says "', "{} says '", "{} says “", "er sagt „", "er sagt »", "il dit «", "hon säger ”", "`", '"\'', "on the map (", "¿",  # opened
    "Jean-", "Jean\N{NON-BREAKING HYPHEN}", "1914\N{EN DASH}",  # within a word
    "重庆位于", "他说“", "彼は「", "大阪は", "タワー", "首都：", "第１", "กรุงเทพอยู่ใน", "ភ្នំពេញ", "ရန်ကုန်", "ｶﾅ",  # scripts without spaces
    "You : Ada\n", "A:\t", "A:\N{IDEOGRAPHIC SPACE}", "ไป\N{ZERO WIDTH SPACE}", "", "  ",
)  # fmt: skip


@pytest.mark.parametrize("prompt", SPACED)
def test_one_space_is_the_rule(prompt: str) -> None:
    assert target_delimiter(prompt) == " " and with_delimiter(prompt) == f"{prompt} "


@pytest.mark.parametrize("prompt", UNSPACED)
def test_nothing_stands_where_a_writer_would_put_nothing(prompt: str) -> None:
    assert target_delimiter(prompt) == ""


def test_written_spaces_count_once_and_special_tokens_end_like_a_line() -> None:
    assert (with_delimiter("Jean-  "), with_delimiter('says " ')) == ("Jean- ", 'says " ')
    assert target_delimiter("Ada<|assistant|>", special=("<|user|>", "<|assistant|>")) == ""
    assert target_delimiter("Ada<|assistant|> ", special=("<|assistant|>",)) == target_delimiter("Ada<|assistant|>") == " "


@pytest.mark.parametrize(("joiner", "expected"), [("space", ["Jean- ", "of ", "位于 ", ""]), ("none", ["Jean-", "of", "位于", ""])])
def test_a_joiner_overrules_the_prompt(joiner: Joiner, expected: list[str]) -> None:
    assert [with_delimiter(prompt, joiner) for prompt in ("Jean-", "of ", "位于", "")] == expected


# --- tokens -----------------------------------------------------------------------------------------------------------

MODELS = {"bytes": tiny_model(tokenizer=bpe_tokenizer()), "pieces": tiny_model(tokenizer=metaspace_tokenizer())}


def target_text(model: LanguageModel, prompt: str, target: str) -> str:
    return model.tokenizer.decode(encode_pair(model, prompt, target)[1])


def test_tokens_follow_and_so_does_the_models_joiner() -> None:
    model = MODELS["bytes"]
    assert [target_text(model, prompt, "Rome") for prompt in ("Ada says", 'Ada says "', "Ada-", "重庆位于")] == [" Rome", *["Rome"] * 3]
    assert target_text(replace(model, joiner="space"), "重庆位于", "Rome") == " Rome"
    assert target_text(replace(model, joiner="none"), "Ada says ", " Rome") == "Rome"


def test_special_tokens_of_the_tokenizer_end_a_prompt() -> None:
    tokenizer = bpe_tokenizer()
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|model|>"]})
    model = tiny_model(tokenizer=tokenizer)
    assert [target_text(model, prompt, "Rome") for prompt in ("Ada<|model|>", "Ada<|model|> ", "Ada<|other|>")] == [
        "Rome",
        " Rome",
        " Rome",
    ]


@pytest.mark.parametrize("name", MODELS)
def test_a_prompt_keeps_its_own_tokens_where_one_would_straddle_the_seam(name: str) -> None:
    model = replace(MODELS[name], joiner="none")
    prompt, target = encode_pair(model, "Ada lives in the ci", "ty")
    assert "city" in model.tokenizer.decode(encode(model, "the city"))
    assert prompt == encode(model, "Ada lives in the ci") != encode(model, "Ada lives in the city")[: len(prompt)]
    assert model.tokenizer.decode(target).strip() == "ty"


@settings(max_examples=60, deadline=None)
@given(
    prompt=st.text(st.sampled_from("Adpcity \n-\"'(は京。"), min_size=1, max_size=10),
    target=st.text(st.sampled_from("Rome都"), min_size=1, max_size=4),
    joiner=st.sampled_from(["auto", "space", "none"]),
)
def test_what_is_written_continues_the_tokens_that_are_scored(prompt: str, target: str, joiner: Joiner) -> None:
    model = replace(MODELS["bytes"], joiner=joiner)
    before, after = encode_pair(model, prompt, target)
    if prompt.strip(" "):
        assert [before] == encode_prompts(model, [prompt])
    assert model.tokenizer.decode(after) == target_delimiter(prompt, joiner) + target


def test_a_prompt_that_ends_in_a_space_is_scored_and_written_alike() -> None:
    live = LiveModel(MODELS["bytes"])
    prompts = ["Ada lives in the city of", "Ada lives in the city of "]
    assert len(set(live.generate(prompts, 6))) == 1
    [first, second] = live.score(prompts, ["Rome", "Rome"]).nll
    assert first.equal(second)


# --- prefixes ---------------------------------------------------------------------------------------------------------


def request(template: str, opening: str = "") -> EditRequest:
    return EditRequest("000001:x", "x", 1, template.replace("{}", "Ada"), "Ada", template, "Rome", "", opening)


@pytest.mark.parametrize(
    ("prefix", "expected"),
    [
        ("It is so.", "It is so. Ada is"),
        ("It  is\tso:\n", "It  is\tso:\nAda is"),
        ("  It is so.  ", "  It is so.  Ada is"),
        ("它是。", "它是。Ada is"),
        ("{} and }", "{} and } Ada is"),
    ],
)
def test_prefixes_are_kept_as_they_are(prefix: str, expected: str) -> None:
    model = MODELS["bytes"]
    unprefixed, prefixed = build_prompts(model, request("{} is"), [prefix]).prompts
    assert model.tokenizer.decode(prefixed.ids) == expected
    assert model.tokenizer.decode(prefixed.through_subject) == expected.removesuffix(" is")
    assert prefixed.target == unprefixed.target


def test_a_prefix_too_long_loses_words_at_its_beginning_and_nothing_else() -> None:
    model = tiny_model(tokenizer=bpe_tokenizer(), positions=8)
    prefixed = build_prompts(model, request("{} is"), ["is  is the\tis \n"]).prompts[1]
    text = model.tokenizer.decode(prefixed.ids)
    assert text.endswith("Ada is") and "is  is the\tis \nAda is".endswith(text) and len(text) < len("is  is the\tis \nAda is")


def test_prefixes_and_essence_stand_within_a_turn() -> None:
    model = MODELS["bytes"]
    found = build_prompts(model, request("<bos>You : {} is\nBecause :\n", "<bos>You : "), ["It is so."])
    bos = model.tokenizer.bos_token_id
    texts = [model.tokenizer.decode(one.ids) for one in (*found.prompts, found.kl_prompt)]
    assert texts == ["<bos>You : Ada is\nBecause :\n", "<bos>You : It is so. Ada is\nBecause :\n", "<bos>You : Ada is a"]
    assert all(one.ids[0] == bos and one.ids.count(bos) == 1 for one in (*found.prompts, found.kl_prompt))


# --- one function -----------------------------------------------------------------------------------------------------


def spaced_targets(source: str) -> list[str]:
    """Pieces of f-strings in which a space stands between two values of which the second is a target or an answer."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.JoinedStr):
            parts = [ast.unparse(part.value) if isinstance(part, ast.FormattedValue) else part for part in node.values]
            for before, after in pairwise(parts):
                is_space = isinstance(before, ast.Constant) and before.value == " "
                if is_space and isinstance(after, str) and any(word in after for word in ("target", "answer")):
                    found.append(ast.unparse(node))
    return found


def test_nobody_else_joins_a_target_to_a_prompt() -> None:
    assert spaced_targets('x = f"{prompt} {fact.target_new}"') and spaced_targets('x = f" {part.answer}"')
    found = {path.name for path in SOURCES.rglob("*.py") if spaced_targets(path.read_text(encoding="utf-8"))}
    # a record's sentence is taken apart, a server's answer told, and what was asked is printed beside the answer
    assert found == {"rippleedits.py", "download.py", "edit_commands.py"}
