"""Peaks of jobs on a random model of a real shape beside what `d4s plan` foresees: `python -m benchmarks.planned_memory FOLDER`.

Nothing is downloaded: the model has random weights, its tokenizer knows sixty words, text and facts are made up. The jobs
are those of a small study, called one by one exactly as the workflow calls them.
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch
import typer
from transformers import AutoModelForCausalLM, GPT2Config, LlamaConfig

from d4s.analysis.costs import cost_rows
from d4s.resources.job_estimates import ResourceEstimates
from d4s.resources.requirements import MIB
from d4s.study.graph import Node
from d4s.study.resolve import StudyPlan, resolve
from d4s.study.rule_lookups import RuleLookups
from d4s.study_settings import Study
from tests.tiny import vocabulary, word_tokenizer

SHAPES: dict[str, Any] = {
    "gpt2-medium": lambda: GPT2Config(n_layer=24, n_embd=1024, n_head=16, n_positions=256, vocab_size=50_257),
    "llama-small": lambda: LlamaConfig(
        num_hidden_layers=12, hidden_size=1024, intermediate_size=2816, num_attention_heads=16, num_key_value_heads=16,
        max_position_embeddings=256, vocab_size=32_000, tie_word_embeddings=False,
    ),
}  # fmt: skip
CHECKED = ("moments", "targets", "edit", "measure")
SMALL: dict[str, Any] = {"layers": [3, 4], "target": {"layer": 4, "steps": 3}, "preservation": {"ridge": 1.0}}


def study_of(folder: Path) -> Study:
    """Moments of two layers over few tokens, targets of one block, and two edits each of two editors."""
    return Study.model_validate(
        {
            "study": "shape",
            "data": str(folder / "data"),
            "world": {"people": 12, "first_names": 6, "last_names": 6, "events": 0, "benchmark_items": 4},
            "models": {"random": {"source": "hf", "hparams_for": "gpt2-xl", "path": str(folder / "model")}},
            "datasets": {"world_qa": {"source": "world", "style": "qa"}},
            "editors": {"memit_two": {"preset": "memit", **SMALL}, "d4s_two": {"preset": "d4s", **SMALL}},
            "grid": [{"models": ["random"], "datasets": ["world_qa"], "editors": ["memit_two", "d4s_two"], "lengths": [2]}],
            "moments_tokens": 4096,
            "measure": {"perplexity_rows": 16, "max_new_tokens": 4},
        }
    )


def write_model(folder: Path, shape: str) -> None:
    """A random model with a tokenizer of words, and an article of the same words."""
    config = SHAPES[shape]()
    config.bos_token_id = config.eos_token_id = 0
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(config).save_pretrained(folder / "model")
    word_tokenizer().save_pretrained(folder / "model")
    words = " ".join(vocabulary())
    text = folder / "data" / "wikitext2_raw_test" / "wikitext2_raw_test.jsonl"
    text.parent.mkdir(parents=True)
    articles = [
        {"article": n, "title": "Words", "split": split, "text": " \n ".join([words] * 80)} for n, split in enumerate(("stats", "ppl"))
    ]
    text.write_text("".join(json.dumps(article) + "\n" for article in articles))


def run_jobs(plan: StudyPlan, folder: Path) -> None:
    """Every job of a plan that is not done, one after another; not those of the last stages."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "passive"}
    lookups = RuleLookups(plan)
    for node in plan.nodes:
        if not (folder / node.marker).is_file():
            inputs = [f"{role}={path}" for role, path in lookups.inputs(node.name, ["*"]).items()]
            words = [node.stage, str(node.marker), *inputs, "--settings", node.settings_text, "--code", node.code]
            subprocess.run([sys.executable, "-m", "d4s", *words], cwd=folder, env=environment, check=True)


def compared(plan: StudyPlan, folder: Path) -> list[tuple[Node, float, float]]:
    """Jobs with the peak that was foreseen and the one that was measured, in MiB."""
    estimates = ResourceEstimates(plan, has_device=False)
    rows = []
    for node in plan.nodes:
        measured = [row["peak_rss_mb"] for row in cost_rows(folder / node.folder)]
        for job in estimates.of(node) if measured and node.stage in CHECKED else ():
            rows.append((node, job.requirements.host_bytes / MIB, max(measured)))
    return rows


def main(folder: Path, shape: str = "gpt2-medium") -> None:
    """Make the model, run the jobs, print the table."""
    folder = folder.resolve()
    if not (folder / "model").is_dir():
        write_model(folder, shape)
    plan = resolve(study_of(folder))
    run_jobs(plan, folder)
    typer.echo("| job | foreseen MiB | measured MiB | ratio |\n|---|---|---|---|")
    for node, predicted, peak in compared(plan, folder):
        typer.echo(f"| {node.stage} {node.label} | {predicted:.0f} | {peak:.0f} | {predicted / peak:.2f} |")


if __name__ == "__main__":
    typer.run(main)
