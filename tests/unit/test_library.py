"""`d4s.edit`: a model that is loaded already, edited like `d4s apply` edits a folder and left as it was."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from safetensors.torch import load_file
from transformers import PreTrainedModel

import d4s
from d4s.apply.ask import ask
from d4s.apply.change import undo
from d4s.apply.edited_folder import EditedFolder
from d4s.apply.history import Conflict, OnConflict
from d4s.editors.ledger import Ledger
from d4s.errors import RecordError, SettingsError
from d4s.library import _check_choice
from tests.applying import CHANGES, FACTS, SMALL, applied, fact_file, saved_model
from tests.tiny import bpe_tokenizer, tiny_model

ROWS = [
    {
        "subject": fact.subject,
        "prompt": fact.template,
        "target_new": fact.target_new,
        "target_true": fact.target_true,
        "paraphrase": list(fact.paraphrases),
        "locality": [fact.neighborhood[0].prompt],
    }
    for fact in FACTS
]
TEXT = d4s.TextSource(tokens=1500)
PAGE = Path(__file__).parents[2] / "docs" / "library.md"


class FewTokens(d4s.TextSource):
    """Text of moments that a tiny model writes in no time."""

    tokens: int = 1500


def loaded() -> tuple[PreTrainedModel, Any]:
    """The tiny model as its owner holds it: in training mode, with gradients wanted."""
    model = tiny_model()
    return model.network.train().requires_grad_(True), model.tokenizer


def edited_by(editor: str, facts: Any = ROWS[:3], **options: Any) -> tuple[PreTrainedModel, "d4s.Edited"]:
    network, tokenizer = loaded()
    found = d4s.edit(
        network, tokenizer, facts, editor=editor, hparams_for="mini", settings=CHANGES.get(editor, SMALL), text=TEXT, **options
    )
    return network, found


@pytest.mark.parametrize("editor", ["d4s", "memit", "rome", "ft_l", "grace"])
def test_the_model_is_left_as_it_was(editor: str) -> None:
    network, tokenizer = loaded()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    torch.set_float32_matmul_precision("high")
    try:
        with torch.no_grad():
            settings = CHANGES.get(editor, SMALL)
            edited = d4s.edit(network, tokenizer, ROWS[:2], editor=editor, hparams_for="mini", settings=settings, text=TEXT)
            edited.generate("Ada Moss lives in the city of")
        assert torch.get_float32_matmul_precision() == "high" and not torch.is_inference_mode_enabled()
    finally:
        torch.set_float32_matmul_precision("highest")
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())
    assert network.training and all(module.training for module in network.modules())
    assert all(weight.requires_grad for weight in network.parameters())


@pytest.mark.parametrize("editor", ["d4s", "memit", "ft_l"])
def test_it_finds_what_the_command_finds(editor: str, tmp_path: Path) -> None:
    applied(saved_model(tmp_path / "model"), fact_file(tmp_path / "facts.csv", FACTS[:3]), tmp_path / "out", editor)
    _, edited = edited_by(editor, fact_file(tmp_path / "same.csv", FACTS[:3]))
    theirs, ours = load_file(tmp_path / "out" / "delta.safetensors"), edited.deltas()
    assert theirs.keys() == ours.keys() and all(torch.equal(theirs[name], ours[name]) for name in ours)
    prompt = FACTS[0].prompt
    assert [edited.generate(prompt, 4)] == edited.generate([prompt], 4) == ask(tmp_path / "out", [prompt], 4, "cpu")


def test_the_edited_model_is_there_within_the_block_alone() -> None:
    network, edited = edited_by("d4s")
    tokenizer = edited._model.tokenizer
    ids = tokenizer(FACTS[0].prompt, return_tensors="pt").input_ids
    with torch.no_grad():
        before = network(ids).logits
        with edited.applied() as same:
            assert same is network and not network.training
            within = network(ids).logits
        with pytest.raises(ZeroDivisionError), edited.applied():
            _ = 1 / 0
        after = network(ids).logits
    assert not torch.equal(before, within) and torch.equal(before, after)
    answer = tokenizer.convert_tokens_to_ids(FACTS[0].target_new)
    assert within[0, -1].softmax(-1)[answer] == pytest.approx(edited.report()["probability_after"][1], rel=1e-4)


def test_more_edits_undone_edits_and_the_report() -> None:
    _, edited = edited_by("d4s")
    first = edited.deltas()
    assert edited.add(ROWS[3:5]) is edited and len(edited) == 5
    assert edited.add(ROWS[:5]) is edited and len(edited) == 5, "what is there already is passed over"
    edited.undo(4, 5)
    assert list(edited.report()["status"]) == ["present"] * 3 + ["undone"] * 2
    assert pd.isna(edited.report().loc[4, "after"]) and edited.report()["probability_after"].count() == 3
    assert all(torch.allclose(first[name], change, atol=1e-6) for name, change in edited.deltas().items())
    assert set(edited.scores) == {"efficacy_accuracy", "paraphrase_accuracy", "locality_accuracy"}
    shown, page = repr(edited), edited._repr_html_()
    assert "edited by d4s: 3 present edits, efficacy accuracy" in shown and FACTS[0].prompt in shown and "<table" in page
    with pytest.raises(SettingsError, match=r"there are no present edits \[4, 9\]; report\(\) lists them: \[1, 2, 3\]"):
        edited.undo(4, 9)


def test_a_table_is_read_like_rows() -> None:
    rows = [{**row, "paraphrase": None, "locality": float("nan")} for row in ROWS[:2]]
    _, edited = edited_by("ft_l", pd.DataFrame(rows))
    assert len(edited) == 2 and "paraphrase_accuracy" not in edited.scores


def test_everything_wrong_is_named_at_once() -> None:
    network, tokenizer = loaded()
    wrong = [
        {"subject": "Ada", "prompt": "{} lives in", "target_new": 3},
        {"subject": "Ada", "promt": "x", "target_new": "Rome"},
    ]
    with pytest.raises(RecordError, match="defects in the records") as caught:
        d4s.edit(network, tokenizer, [*wrong, ROWS[0]], hparams_for="mini", settings=SMALL, text=TEXT)
    for part in (
        "facts:1: target_new: found 3, expected text",
        "facts:2: prompt: found nothing",
        "facts:2: promt",
    ):
        assert part in str(caught.value)
    with pytest.raises(d4s.D4SError, match="holds no facts"):
        d4s.edit(network, tokenizer, [], hparams_for="mini", settings=SMALL, text=TEXT)
    with pytest.raises(Conflict, match="is to be 'Rome'"):
        d4s.edit(
            network, tokenizer, [ROWS[0] | {"target_new": "Rome"}, ROWS[0] | {"target_new": "Oslo"}], hparams_for="mini", settings=SMALL
        )
    with pytest.raises(SettingsError, match="on_conflict is 'raise'; choose one of 'refuse', 'replace', 'average'"):
        _check_choice("on_conflict", "raise", OnConflict)
    table = pd.DataFrame(ROWS[:1])
    table.columns = ["subject", "prompt", "target_new", "target_new", "paraphrase", "locality"]
    with pytest.raises(SettingsError, match=r"several columns of one name: \['target_new'\]"):
        edited_by("ft_l", table)
    with pytest.raises(SettingsError, match="memitt"):
        d4s.edit(network, tokenizer, ROWS[:1], editor="memitt", hparams_for="mini")
    with pytest.raises(SettingsError, match="no settings are known for a gpt2 of 3 layers"):
        d4s.edit(network, tokenizer, ROWS[:1])
    assert network.training


def test_a_saved_folder_goes_on_without_the_loaded_model(tmp_path: Path) -> None:
    _, edited = edited_by("d4s")
    out = edited.save(tmp_path / "out")
    prompt = FACTS[0].prompt
    assert ask(out, [prompt], 4, "cpu") == [edited.generate(prompt, 4)]
    stored = load_file(out / "delta.safetensors")
    assert all(torch.equal(stored[name], change) for name, change in edited.deltas().items())
    undo(out, [2], "cpu")
    assert [edit.number for edit in EditedFolder.open(out).active_edits()] == [1, 3] and len(edited) == 3
    with pytest.raises(SettingsError, match="is there already"):
        edited.save(out)
    same, another = saved_model(tmp_path / "same"), saved_model(tmp_path / "another", "llama")
    edited.save(tmp_path / "pointing", base_model=str(same))
    assert not (tmp_path / "pointing" / "unedited").exists() and ask(tmp_path / "pointing", [prompt], 4, "cpu")
    with pytest.raises(SettingsError, match="is not the unedited model"):
        edited.save(tmp_path / "wrong", base_model=str(another))
    assert not (tmp_path / "wrong").exists()


def test_only_one_edited_model_is_there_at_a_time() -> None:
    _, edited = edited_by("d4s")
    apart = edited.generate(FACTS[0].prompt, 4)
    with edited.applied():
        assert edited.generate(FACTS[0].prompt, 4) == apart
        for call in (lambda: edited.add(ROWS[3:4]), lambda: edited.undo(1), lambda: edited.save("x"), edited.as_lora, edited.deltas):
            with pytest.raises(SettingsError, match="needs the model's own weights"):
                call()
    with pytest.raises(SettingsError, match="must have 1 to 64 tokens for this model"):
        edited.generate(["home " * 80])
    assert edited.generate([]) == []


def test_what_was_edited_before_an_interruption_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    network, tokenizer = loaded()
    with pytest.raises(KeyboardInterrupt) as caught, stopped(monkeypatch, 2):
        d4s.edit(network, tokenizer, ROWS[:4], editor="memit", hparams_for="mini", settings=SMALL, text=TEXT)
    edited: d4s.Edited = caught.value.edited  # type: ignore[attr-defined]
    assert list(edited.report().index) == [1, 2] and network.training
    edited.add(ROWS[:4])
    assert len(edited) == 4 and edited.report()["probability_after"].notna().all()
    _, dense = edited_by("ft_l", ROWS[:1])
    with pytest.raises(KeyboardInterrupt), stopped(monkeypatch, 3):
        dense.add(ROWS[:4])
    assert len(dense.add(ROWS[:4])) == 4


@contextmanager
def stopped(monkeypatch: pytest.MonkeyPatch, edits: int) -> Iterator[None]:
    record = Ledger.record

    def stop(ledger: Ledger, *recorded: Any) -> None:
        record(ledger, *recorded)
        if ledger.length == edits:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Ledger, "record", stop)
        yield


def test_a_saved_folder_is_loaded_again(tmp_path: Path) -> None:
    _, edited = edited_by("d4s")
    again = d4s.load(edited.save(tmp_path / "out"))
    assert again.report().equals(edited.report())
    again.add(ROWS[3:4]).undo(1)
    assert [edit.number for edit in EditedFolder.open(tmp_path / "out").active_edits()] == [1, 2, 3]
    again.save(tmp_path / "next", base_model=str(tmp_path / "out" / "unedited"))
    assert [edit.number for edit in EditedFolder.open(tmp_path / "next").active_edits()] == [2, 3, 4]


def test_a_model_in_half_precision_gets_an_adapter_of_the_whole_change() -> None:
    model = tiny_model(dtype=torch.bfloat16)
    edited = d4s.edit(model.network, model.tokenizer, ROWS[:3], hparams_for="mini", settings=SMALL, text=TEXT)
    ranks = {factor.shape[0] for name, factor in edited.as_lora().items() if "lora_A" in name}
    assert ranks == {3} and next(model.network.parameters()).dtype == torch.bfloat16
    with pytest.raises(SettingsError, match="is at least 1, found 0"):
        edited.as_lora(rank=0)


def test_an_adapter_is_the_change(tmp_path: Path) -> None:
    _, edited = edited_by("d4s")
    factors, deltas = edited.as_lora(tmp_path / "adapter"), edited.deltas()
    for name, change in deltas.items():
        stem = f"base_model.model.{name.removesuffix('.weight')}"
        product = factors[f"{stem}.lora_B.weight"] @ factors[f"{stem}.lora_A.weight"]
        assert torch.allclose(product.mT, change, atol=1e-5)  # GPT-2 stores its matrices the other way round
    assert load_file(tmp_path / "adapter" / "adapter_model.safetensors").keys() == factors.keys()
    assert all(factor.shape[0 if "lora_A" in name else 1] == 1 for name, factor in edited.as_lora(rank=1).items())


@pytest.mark.parametrize("editor", ["grace", "memoir"])
def test_a_memory_says_what_it_cannot_do(editor: str) -> None:
    _, edited = edited_by(editor, ROWS[:1])
    with pytest.raises(SettingsError, match=f"{editor} changes no weights: it answers in generate"), edited.applied():
        pass
    with pytest.raises(SettingsError, match="so there is no adapter"):
        edited.as_lora()
    assert edited.deltas() == {} and edited.generate(FACTS[0].prompt, 1) == FACTS[0].target_new


def test_the_public_names_are_imported_when_they_are_asked_for() -> None:
    assert all(getattr(d4s, name) is not None for name in d4s.__all__)
    with pytest.raises(AttributeError, match="has no attribute 'editt'; it has D4SError, Edited"):
        _ = d4s.editt  # type: ignore[attr-defined]


def test_the_page_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_model(layers=4, tokenizer=bpe_tokenizer())
    folder = tmp_path / "model"
    model.network.save_pretrained(folder)
    model.tokenizer.save_pretrained(folder)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("d4s.library.known_column", lambda *_: "mini")
    monkeypatch.setattr("d4s.library.TextSource", FewTokens)
    names: dict[str, Any] = {}
    for block in re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL):
        exec(block.replace("openai-community/gpt2-xl", str(folder)), names)
    assert list(names["report"]["status"]) == ["present", "present"] and len(names["edited"]) == 2
    assert not torch.equal(names["logits"], names["before"])
    assert (tmp_path / "edited" / "model").is_dir() and (tmp_path / "adapter" / "adapter_config.json").is_file()
    assert names["after"].item() < names["language"].network.config.vocab_size
