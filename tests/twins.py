"""Studies of real models with tiny ones in their place: the same rules, layers and editors, records of our own, two edits."""

import copy
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from d4s.facts.event_readers import EVENT_FILES
from d4s.facts.readers import files_of
from d4s.metrics.benchmark_files import BENCHMARK_FILES
from d4s.study_settings import Study
from tests.samples import WANTS, counterfact, write_lines, zsre
from tests.tiny import bpe_tokenizer, metaspace_tokenizer, tiny_model

FAMILIES = {
    "gpt2-xl": ("gpt2", 48),
    "gpt-j-6b": ("gptj", 28),
    "llama2-7b": ("llama", 32),
    "llama3-8b": ("llama", 32),
    "qwen2.5-7b": ("qwen2", 28),
}
WORDS = "The town lies by the river and its old houses were built of stone a long time ago by people who came from far away ."


def data_files(study: dict[str, Any]) -> list[str]:
    """Every file of the data folder that a study reads."""
    chosen = Study.model_validate(study)
    names = [f"{model.text}/{model.text}.jsonl" for model in chosen.models.values() if model.source == "hf"]
    for dataset in chosen.datasets.values():
        names += [EVENT_FILES[dataset.events]] if dataset.source == "questions" else [*files_of(dataset.source, dataset.style).values()]
    return names + ([name for files in BENCHMARK_FILES.values() for name in files] if chosen.benchmarks.tasks == "local" else [])


def touch_data(folder: Path, study: dict[str, Any]) -> None:
    """Empty files in the places of all data: enough to plan a study."""
    for name in data_files(study):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()


def write_data(folder: Path) -> None:
    """A few records of each kind that a twin keeps, and running text."""
    articles = [
        {"article": n, "title": "Towns", "split": split, "text": " \n ".join([f"{WORDS} {WORDS} {n}"] * 60)}
        for n, split in enumerate(("stats", "ppl"))
    ]
    lines = {
        "counterfact/counterfact.jsonl": [counterfact(number) for number in range(1, 5)],
        "zsre_mend/zsre_mend.jsonl": [zsre(number) for number in range(1, 5)],
        "atomic2020/atomic2020.jsonl": WANTS,
        "wikitext2_raw_test/wikitext2_raw_test.jsonl": articles,
    }
    for name, records in lines.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        write_lines(folder / name, *(json.dumps(record) for record in records))


def twin(
    study: dict[str, Any], folder: Path, *, editors: Sequence[str] | None = None, datasets: Sequence[str] = ("zsre",)
) -> dict[str, Any]:
    """A study with tiny models, written below a folder, its first row alone, and one and two edits."""
    small = copy.deepcopy(study)
    for name, model in small["models"].items():
        family, layers = FAMILIES[model["hparams_for"]]
        tokenizer = metaspace_tokenizer() if family == "llama" else bpe_tokenizer()
        tokenizer.unk_token = tokenizer.unk_token or tokenizer.bos_token  # Qwen2's class adds a token of its own where there is none
        tiny = tiny_model(family, layers=layers, width=16, mlp_width=48, positions=256, tokenizer=tokenizer, scale=2.0)
        tiny.network.save_pretrained(folder / name)
        tiny.tokenizer.save_pretrained(folder / name)
        model.update(path=str(folder / name), device_map=None)
        model["corpus"]["row"] = 64
    row = small["grid"][0]
    row.update(datasets=list(datasets), lengths=[1, 2], benchmark="longest", editors=list(editors or row["editors"]))
    world = {"people": 12, "first_names": 6, "last_names": 6, "events": 6, "benchmark_items": 2}
    small.update(
        grid=[row], world=world, moments_tokens=4096, measure={"sample": 2, "perplexity_rows": 4, "max_new_tokens": 3},
        benchmarks={"tasks": "world"}, figures={"format": ["png"], "dpi": 50},
    )  # fmt: skip
    small["datasets"] = {name: small["datasets"][name] for name in datasets}
    return small
