"""A user's turn in a chat: rendered once and kept, or refused in one message with the template's own words."""

import json
from pathlib import Path

import pytest
from transformers import PreTrainedTokenizerFast

from d4s.apply.ask import ask
from d4s.apply.chat import SAMPLE, Chat, render_chat
from d4s.apply.edited_folder import EditedFolder
from d4s.apply.history import EditSpec
from d4s.apply.prompt_builder import PromptBuilder
from d4s.editors.prompts import build_prompts
from d4s.errors import D4SError, SettingsError
from d4s.models.tokens import encode, encode_pair
from tests.applying import FACTS, applied, fact_file, saved_model
from tests.tiny import BOS, bpe_tokenizer, tiny_model

SPEC = EditSpec(subject="Ada Moss", template="{} lives in the city of", target="Rome", paraphrases=("Where does Ada live ?",))


def chatting(template: object, bos: bool) -> PreTrainedTokenizerFast:
    """A byte-level tokenizer with a chat template and marks of turns as special tokens; BOS in front where asked for."""
    tokenizer = bpe_tokenizer(bos)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|user|>", "<|model|>"]})
    tokenizer.chat_template = template
    return tokenizer


@pytest.mark.parametrize("bos", [True, False])
@pytest.mark.parametrize(
    ("template", "shown"),
    [
        ("{{ bos_token }}U: {{ messages[0].content }}\nA:", "U: Ada\nA:"),
        ("\n\n{{ bos_token }}U: {{ messages[0].content }}\nA:", "U: Ada\nA:"),
        ("\n{{- bos_token }}<|user|>{{ messages[0]['content'] | trim }}<|model|>", "<|user|>Ada<|model|>"),
        ("{% for m in messages %}{{ m.content }}{{ eos_token }}{% endfor %}", None),
    ],
)
def test_bos_stands_there_once_and_first(template: str, shown: str | None, bos: bool) -> None:
    model = tiny_model(tokenizer=chatting(template, bos))
    ids = encode(model, render_chat(model.tokenizer).turn("Ada"))
    start = model.tokenizer.bos_token_id
    if shown is None:  # a token that ends a turn is none that begins the text
        assert ids == [*([start] if bos else []), *model.tokenizer("Ada", add_special_tokens=False).input_ids, start]
    else:
        assert ids[0] == start and ids.count(start) == 1
        assert model.tokenizer.decode(ids[1:]) == shown


def test_a_template_without_bos_leaves_it_to_the_tokenizer() -> None:
    assert render_chat(chatting("U: {{ messages[0].content }}\n\n", True)) == Chat(before="U: ", after="\n")


@pytest.mark.parametrize(
    ("template", "message"),
    [
        (None, "has no chat template"),
        ("", "has no chat template"),
        ("{% for m in messages %}{{ m.content }}", "'{% for m in messages %}.*cannot be rendered.*Unexpected end of template"),
        ("{{ raise_exception('only assistants may speak') }}", "cannot be rendered.*: only assistants may speak; "),
        ("{{ messages[1].content }}", "cannot be rendered.*has no element 1"),
        ("{{ messages[0].content + 1 }}", "cannot be rendered.*concatenate str"),
        ("{{ messages[0].content.parts.first }}", "cannot be rendered.*has no attribute 'parts'"),
        ({"tool_use": "x", "rag": "y"}, r"template \{'tool_use': 'x', 'rag': 'y'\} cannot be rendered.*no default"),
        (
            "{% for p in messages[0].content %}{{ p.text }}{% endfor %}A:",
            r"does not hold the user's text .* wants it in parts \(found 'A:'\)",
        ),
        ("{{ messages[0].content | upper }}", "does not hold the user's text"),
        ("{{ messages[0].content | tojson }}", "does not hold the user's text"),
        ("{{ messages[0].content }} {{ messages[0].content }}", "does not hold the user's text .* once"),
        ("Tools: {}\n{{ messages[0].content }}", "puts {} beside the user's text"),
    ],
)
def test_a_template_that_cannot_serve_is_refused_in_its_own_words(template: object, message: str) -> None:
    with pytest.raises(SettingsError, match=f"(?s){message}") as refusal:
        render_chat(chatting(template, True))
    assert "leave --chat out" in str(refusal.value)


def test_a_mapping_with_a_default_is_used() -> None:
    assert render_chat(chatting({"default": "U: {{ messages[0].content }}\n\n", "rag": "x"}, True)).turn(SAMPLE) == f"U: {SAMPLE}\n"


@pytest.mark.parametrize(
    ("end", "target"), [("<|model|>", "Rome"), ("\n\n", "Rome"), ("A:", " Rome"), ("A: ", " Rome"), ("<|model|> ", " Rome"), ("「", "Rome")]
)
def test_the_end_of_a_turn_decides_what_an_answer_begins_with(end: str, target: str) -> None:
    model = tiny_model(tokenizer=chatting("<|user|>{{ messages[0].content }}" + end, True))
    prompts = PromptBuilder(model, render_chat(model.tokenizer))
    found = build_prompts(model, prompts.request(SPEC, 1), ()).prompts[0]
    assert model.tokenizer.decode(found.target) == target
    assert (list(found.ids), list(found.target)) == encode_pair(model, prompts.text(SPEC.prompt), "Rome")


@pytest.mark.parametrize("bos", [True, False])
def test_prefixes_stand_within_the_users_turn(bos: bool) -> None:
    model = tiny_model(tokenizer=chatting("{{ bos_token }}<|user|>{{ messages[0].content }}<|model|>", bos))
    request = PromptBuilder(model, render_chat(model.tokenizer)).request(SPEC, 1)
    found = build_prompts(model, request, ["It is so."]).prompts
    texts = [model.tokenizer.decode(one.ids) for one in found]
    asked = "Ada Moss lives in the city of<|model|>"
    assert texts == [f"{BOS}<|user|>{asked}", f"{BOS}<|user|>It is so. {asked}"]
    assert model.tokenizer.decode(found[1].through_subject) == f"{BOS}<|user|>It is so. Ada Moss"


DATED = "{{ bos_token }}Because {{ ':' if strftime_now('%Y') > '2000' }}\nYou : {{ messages[0].content }}\n\n"


def test_what_was_rendered_stays_with_the_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base, out = saved_model(tmp_path / "base", chat=DATED), tmp_path / "out"
    folder, _ = applied(base, fact_file(tmp_path / "one.csv", FACTS[:1]), out, "rome", chat=True)
    kept = folder.manifest.chat
    assert kept is not None and kept.before.startswith("Because :") and kept.after == "\n"
    told = json.loads((out / "manifest.json").read_text(encoding="utf-8"))
    assert told["chat"] == {"before": kept.before, "after": "\n"}
    told["chat"]["before"] = kept.before.replace("Because", "Therefore")  # as if it had been another day
    (out / "manifest.json").write_text(json.dumps(told), encoding="utf-8")
    monkeypatch.setattr("d4s.apply.apply_pipeline.render_chat", lambda tokenizer: pytest.fail("rendered once more"))
    seen: list[str] = []
    turn = Chat.turn
    monkeypatch.setattr(Chat, "turn", lambda chat, prompt: seen.append(turn(chat, prompt)) or seen[-1])
    folder, found = applied(base, fact_file(tmp_path / "two.csv", FACTS[1:2]), out, "rome", chat=True)
    ask(out, ["Ada lives in"], 2, "cpu")
    assert found is not None and len(found.results) == 2
    assert seen and all(text.startswith("Therefore :") for text in seen)
    with pytest.raises(SettingsError, match="chat: true there, false now"):
        applied(base, tmp_path / "two.csv", out, "rome")


def test_the_joiner_stays_with_the_folder(tmp_path: Path) -> None:
    base, out = saved_model(tmp_path / "base"), tmp_path / "out"
    facts = fact_file(tmp_path / "one.csv", FACTS[:1])
    applied(base, facts, out, "rome", joiner="none")
    assert EditedFolder.open(out).model.joiner == "none"
    with pytest.raises(D4SError, match='joiner: "none" there, "auto" now'):
        applied(base, facts, out, "rome")
