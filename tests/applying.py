"""A tiny model's folder, files of facts, and `apply` with settings cut down to it."""

import csv
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from d4s.apply.apply_pipeline import ApplyOptions, EditPlan, apply
from d4s.apply.edited_folder import MODEL, EditedFolder
from d4s.apply.input_preparation import TextSource
from d4s.apply.outcome import Outcome
from d4s.editors.ledger import Ledger
from d4s.facts.record import Fact
from tests.tiny import tiny_facts, tiny_model

SMALL = {"layers": [0, 1], "target": {"layer": 1, "steps": 8, "clamp": 4.0}, "preservation": {"weight": 1.0}}
CHANGES: dict[str, dict[str, Any]] = {
    "rome": {"layers": [1], "target": {"layer": 1, "steps": 8, "clamp": 4.0}},
    "ft_l": {"layer": 1, "steps": 3},
    "grace": {"layer": 1, "steps": 40, "eps_init": 1e-3},
    "wise": {"layer": 1, "steps": 5, "sentences": 3},
    "memoir": {"layer": 1, "steps": 40, "columns": 60, "overlap": 0.9},
    "kn": {"steps": 3},
}
FROZEN = SMALL | {"keys": {"mode": "frozen"}}
FACTS = tiny_facts(6)
CHAT = "{% for m in messages %}<bos>You : {{ m.content }}\n{% endfor %}{% if add_generation_prompt %}Because :\n{% endif %}"


def saved_model(folder: Path, family: str = "gpt2", dtype: torch.dtype = torch.float32, chat: str | None = None) -> Path:
    """A tiny model on disk."""
    model = tiny_model(family, dtype=dtype)
    model.tokenizer.chat_template = chat
    model.network.save_pretrained(folder)
    model.tokenizer.save_pretrained(folder)
    return folder


def fact_file(path: Path, facts: Sequence[Fact] = FACTS, **targets: str) -> Path:
    """A CSV of facts; `targets` change those of the facts with these numbers, as `n3="Oslo"`."""
    with path.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["subject", "prompt", "target_new", "target_true", "paraphrase", "locality"])
        for number, fact in enumerate(facts):
            target = targets.get(f"n{number}", fact.target_new)
            probe = fact.neighborhood[0].prompt
            writer.writerow([fact.subject, fact.template, target, fact.target_true, "|".join(fact.paraphrases), probe])
    return path


def options(model: Path, facts: Path, out: Path, editor: str = "d4s", **overrides: Any) -> ApplyOptions:
    """What `d4s apply` would be asked for."""
    asked = {"overrides": CHANGES.get(editor, SMALL), "hparams_for": "mini", "text": TextSource(tokens=1500), **overrides}
    return ApplyOptions(model=str(model), facts=facts, editor=editor, out=out, **asked)


@contextmanager
def stopped_after(edits: int, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What runs inside is interrupted as soon as a ledger holds so many edits, and must be."""
    record = Ledger.record

    def stop(ledger: Ledger, *recorded: Any) -> None:
        record(ledger, *recorded)
        if ledger.length == edits:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Ledger, "record", stop)
        yield


def applied(model: Path, facts: Path, out: Path, editor: str = "d4s", **overrides: Any) -> tuple[EditedFolder, Outcome | None]:
    """The folder after `d4s apply`, and what it found."""
    plans: list[EditPlan] = []
    found = apply(options(model, facts, out, editor, **overrides), plans.append)
    assert len(plans) == 1
    return EditedFolder.open(out), found


def delta_of(path: Path) -> dict[str, torch.Tensor]:
    """The change of weights that a folder's record gives now."""
    folder = EditedFolder.open(path)
    with folder.edited() as view:
        return {str(layer): change.clone() for layer, change in (view.weight_changes() or {}).items()}


def gap(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> float:
    """The largest relative difference of two changes of weights over their layers."""
    assert found.keys() == expected.keys()
    return max(float((found[name] - expected[name]).norm() / expected[name].norm()) for name in expected)


def reloaded(path: Path, prompt: str) -> tuple[str, torch.Tensor]:
    """What plain transformers make of the written model: greedy text and the last logits."""
    network = AutoModelForCausalLM.from_pretrained(path / MODEL)
    tokenizer = AutoTokenizer.from_pretrained(path / MODEL)
    ids = tokenizer(prompt, return_tensors="pt").input_ids
    with torch.no_grad():
        written = network.generate(ids, max_new_tokens=4, do_sample=False, pad_token_id=0)
        return tokenizer.decode(written[0, ids.shape[1] :]), network(ids).logits[0, -1]
