"""What the tokenizer makes of rows: composed letters, parts of words, special tokens, windows; and models that are not finite."""

import json
import unicodedata
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import normalizers
from typer.testing import CliRunner

from d4s.apply.fact_files import RawFact
from d4s.apply.history import EditSpec
from d4s.apply.prompt_builder import PromptBuilder
from d4s.artifacts import StageJob
from d4s.cli import app
from d4s.config import AdoptSettings, ContextsSettings
from d4s.editors.contexts import contexts
from d4s.editors.prompts import build_prompts
from d4s.errors import ArtifactError
from d4s.facts.jsonl import RecordLine
from d4s.models.adopt import adopt
from d4s.models.doctor import inspect_model
from d4s.models.finite_check import require_finite
from d4s.models.language_model import LanguageModel
from d4s.models.tokens import encode, find_special_tokens, subject_last_index
from tests.applying import FACTS, applied, fact_file, saved_model
from tests.tiny import bpe_tokenizer, tiny_model


def told(model: LanguageModel, subject: str, prompt: str, target: str = "Rome", **more: object) -> list[tuple[str, str]]:
    """Field and expectation of every defect of one row."""
    row = {"subject": subject, "prompt": prompt, "target_new": target, **more}
    line = RecordLine("facts.csv", 2, json.dumps(row), RawFact.model_validate(row))
    return [(reject.problem.field, reject.problem.expected) for reject in PromptBuilder(model, chat=None).find_rejects([line])]


def composing(form: str) -> LanguageModel:
    tokenizer = bpe_tokenizer()
    tokenizer.backend_tokenizer.normalizer = {"NFC": normalizers.NFC, "NFKC": normalizers.NFKC}[form]()
    return tiny_model(tokenizer=tokenizer)


BYTES = tiny_model(tokenizer=bpe_tokenizer())


@pytest.mark.parametrize("form", ["NFC", "NFKC"])
@pytest.mark.parametrize("subject", ["Zoë", "Hồ Chí Minh", "한국", "é"])
@pytest.mark.parametrize("template", ["{} lives in the city of", "The home town of {} is", "São Paulo: {}"])
def test_decomposed_letters_are_edited_like_composed_ones_where_the_tokenizer_composes(form: str, subject: str, template: str) -> None:
    model, apart = composing(form), unicodedata.normalize("NFD", subject)
    prompt, whole = (template.replace("{}", one) for one in (apart, subject))
    assert apart != subject and encode(model, prompt) == encode(model, whole)
    assert subject_last_index(model, prompt, apart, template) == subject_last_index(model, whole, subject, template)
    assert not told(model, apart, template)
    prompts = PromptBuilder(model, chat=None)
    assert [prompts.tokens(prompt)] == [prompts.tokens(whole)]


def test_where_it_does_not_compose_the_last_mark_is_the_last_letter() -> None:
    apart = unicodedata.normalize("NFD", "Zoë")
    position = subject_last_index(BYTES, f"{apart} is", apart, "{} is")
    assert BYTES.tokenizer.decode(encode(BYTES, f"{apart} is")[: position + 1]) == apart


def test_a_letter_that_the_tokenizer_drops_is_still_an_error() -> None:
    tokenizer = bpe_tokenizer()
    tokenizer.backend_tokenizer.normalizer = normalizers.Replace("s", "")
    with pytest.raises(ValueError, match="no token covers the subject's last character"):
        subject_last_index(tiny_model(tokenizer=tokenizer), "Moss is", "Moss", "{} is")


@pytest.mark.parametrize(
    ("subject", "prompt"),
    [
        ("Ada", "Adam lives in"),
        ("Ann", "JoAnn lives in"),
        ("Ольга", "Ольгам живёт"),
        ("Apollo 1", "Apollo 11 flew to"),
        ("Zoe", "Zoe\u0308 lives"),
    ],
)
def test_a_subject_within_another_word_is_a_defect_unless_it_is_marked(subject: str, prompt: str) -> None:
    assert told(BYTES, subject, prompt) == [
        ("prompt", "the subject as a word of its own; put {} in its place where a part of a word is meant")
    ]
    assert not told(BYTES, subject, prompt.replace(subject, "{}"))


@pytest.mark.parametrize(
    ("subject", "prompt"),
    [
        ("O'Brien", "O'Brien's town is"), ("Ada", "(Ada) is"), ("東京", "東京は日本の"), ("서울", "서울은 어디에"),
        ("ירושלים", "בירושלים יש"), ("Ada", "Ada"), ("D&R 7", "Who made D&R 7?"),
    ],
)  # fmt: skip
def test_a_subject_between_marks_or_particles_is_a_word(subject: str, prompt: str) -> None:
    assert not told(BYTES, subject, prompt)


def test_special_tokens_are_no_text() -> None:
    mark = [
        ("target_new", "text without the tokenizer's special tokens (<bos>), which are no text to it; those of a chat come with --chat")
    ]
    assert told(BYTES, "Ada Moss", "{} lives in", "Rome<bos>") == mark
    assert [field for field, _ in told(BYTES, "<bos>", "{} lives in <bos>", paraphrase=["<bos>{} is"], target_true="<bos>")] == [
        "subject", "prompt", "target_true", "paraphrase",
    ]  # fmt: skip
    assert find_special_tokens(BYTES, "bos < bos > Ada") == [] == told(BYTES, "Ada", "{} < bos > is")


def test_a_prompt_beyond_an_attention_window_is_a_defect_of_its_row() -> None:
    model = tiny_model("mistral", tokenizer=bpe_tokenizer())
    model.network.config.sliding_window = 12
    assert not told(model, "Ada Moss", "{} is in")
    ((field, expected),) = told(model, "Ada Moss", "The home town of {} is in the city of the old town of")
    assert field == "prompt" and "its attention looks back over a window of 12" in expected
    spec = PromptBuilder(model, chat=None).request(_spec("Ada Moss", "{} is in"), 1)
    shortened = build_prompts(model, spec, ["The old town is home and the city of Paris has an old town."]).prompts[1]
    assert len(shortened.teacher_forced) <= 12


def _spec(subject: str, template: str) -> EditSpec:
    return EditSpec.of(RawFact(subject=subject, prompt=template, target_new="Rome"))


# --- numbers ----------------------------------------------------------------------------------------------------------


def spoilt(folder: Path, how: str) -> Path:
    """A model's folder with one number that is none, or with weights whose products leave float16."""
    tensors = load_file(folder / "model.safetensors")
    if how == "nan":
        tensors["transformer.wte.weight"][-1, 3] = torch.nan  # of a token that no sentence holds
    else:
        tensors = {name: (tensor * 3000 if tensor.ndim > 1 else tensor).half() for name, tensor in tensors.items()}
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    return folder


MESSAGES = {
    "nan": r"the weight transformer\.wte\.weight of the unedited model holds numbers",
    "far": r"logits of the unedited model for .* float16",
}


@pytest.mark.parametrize("how", [*MESSAGES])
def test_a_model_that_is_not_finite_is_one_message(tmp_path: Path, how: str) -> None:
    base = spoilt(saved_model(tmp_path / "base"), how)
    with pytest.raises(ArtifactError, match=MESSAGES[how]):
        applied(base, fact_file(tmp_path / "facts.csv", FACTS[:1]), tmp_path / "out", "rome")
    with pytest.raises(ArtifactError, match=MESSAGES[how]):
        inspect_model(base, "float16" if how == "far" else "float32")
    done = CliRunner().invoke(app, ["doctor", "--model", str(base), "--dtype", "float16" if how == "far" else "float32"])
    assert done.exit_code == 1 and "not finite" in done.stderr and "Traceback" not in done.output
    (tmp_path / "adopted").mkdir()
    (tmp_path / "contexts").mkdir()
    adopt(StageJob("models", AdoptSettings(path=str(base), dtype="float16" if how == "far" else "float32"), {}, tmp_path / "adopted"))
    with pytest.raises(ArtifactError, match=MESSAGES[how]):
        contexts(StageJob("contexts", ContextsSettings(), {"model": tmp_path / "adopted"}, tmp_path / "contexts"))


def test_a_sound_model_is_not_refused_for_logits_that_it_masks() -> None:
    model = tiny_model()
    handle = model.network.lm_head.register_forward_hook(
        lambda _module, _inputs, logits: logits.index_fill(-1, torch.tensor([3]), -torch.inf)
    )
    require_finite(model)
    handle.remove()
