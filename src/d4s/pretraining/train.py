"""Stage `pretrain`: an ordinary Hugging Face model folder from a corpus.

One pass over the rows in their order, so the number of a step determines its data. A regular checkpoint lets an interrupted
training continue with the same results; it is removed at the end.
"""

import functools
import logging
import math
import os
import shutil
from collections.abc import Iterator, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor
from transformers import GPT2LMHeadModel, PreTrainedTokenizerFast

from d4s.artifacts import Artifact, StageJob, atomic_write, write_table, write_tensors, write_text
from d4s.config import PretrainSettings
from d4s.errors import D4SError, SettingsError
from d4s.log import progress
from d4s.pretrained import read_tokenizer
from d4s.pretraining import checkpoint
from d4s.pretraining.card import model_card
from d4s.pretraining.checkpoint import CurveRow, TrainingState
from d4s.pretraining.fact_accuracy import accuracies
from d4s.pretraining.kept_models import kept_name, kept_steps
from d4s.pretraining.network import Optimisers, lr_schedule, new_network
from d4s.pretraining.sentences import training_examples
from d4s.pretraining.tokenizer_training import bos_of
from d4s.pretraining.training_facts import read_training_facts
from d4s.schemas import CURVE, MODEL_CHECK

log = logging.getLogger(__name__)
CURVE_EVERY = 25
PARTS = 2  # parts of a batch whose gradients are computed in parallel
Batch = tuple[Int[Tensor, "b row"], Float[Tensor, "b row"]]


@dataclass(frozen=True)
class Rows:
    """Training rows and the loss weight of predicting each of their tokens."""

    ids: Int[Tensor, "n row"]
    weights: Float[Tensor, "n row"]

    def batch(self, step: int, size: int) -> Batch:
        """The rows of a step, as 64-bit ids and 32-bit weights."""
        part = slice(step * size, (step + 1) * size)
        return self.ids[part].long(), self.weights[part].float()


def pretrain(job: StageJob[PretrainSettings]) -> None:
    """Train a model on a corpus and measure its accuracy on the facts.

    Raises:
        SettingsError: if the corpus does not fit the model's shape.
        D4SError: if the loss stops being finite.
    """
    settings = job.settings
    source = job.artifact("corpus", "corpora")
    tensors = source.tensors("tokens.safetensors")
    rows = Rows(tensors["rows"], tensors["weights"])
    steps = len(rows.ids) // settings.batch_rows
    if rows.ids.shape[1] > settings.positions or not steps:
        raise SettingsError(
            f"rows of {rows.ids.shape[1]} tokens, {len(rows.ids)} of them: need at most positions={settings.positions} tokens"
            f" and at least batch_rows={settings.batch_rows} rows"
        )
    tokenizer = _tokenizer(source)
    network = new_network(settings, len(tokenizer), bos_of(tokenizer) or 0)
    curve = _train(job, network, rows, steps)
    kept = [kept_name(step) for step in kept_steps(steps, settings.keep_checkpoints)]
    files = [*_write_outputs(job, network, tokenizer, curve), *kept]
    job.write_manifest(files, steps=steps, tokens=steps * settings.batch_rows * rows.ids.shape[1])
    job.path(checkpoint.NAME).unlink(missing_ok=True)


def _tokenizer(source: Artifact) -> PreTrainedTokenizerFast:
    for name in source.manifest.files:
        if name.startswith("tokenizer/"):
            source.path(name)
    return read_tokenizer(str(source.folder / "tokenizer"))


def token_losses(logits: Float[Tensor, "b row vocab"], ids: Int[Tensor, "b row"]) -> Float[Tensor, "b next"]:
    """Negative log-likelihood (nats) of every token but the first of a row."""
    return F.cross_entropy(logits[:, :-1].mT, ids[:, 1:], reduction="none")


def weighted_means(nll: Float[Tensor, "b next"], weights: Float[Tensor, "b row"]) -> tuple[float, float]:
    """Mean loss by weight, and the plain mean over the tokens of largest weight, which are the answers."""
    weight = weights[:, 1:]
    return ((nll * weight).sum() / weight.sum()).item(), nll[weight == weight.max()].mean().item()


def _train(job: StageJob[PretrainSettings], network: GPT2LMHeadModel, rows: Rows, steps: int) -> list[CurveRow]:
    settings, path = job.settings, job.path(checkpoint.NAME)
    training = TrainingState(network, Optimisers.of(network, settings))
    if path.exists():
        training.restore(path, job.digest)
        log.info("going on after step %d of %d", training.done, steps)
    kept = kept_steps(steps, settings.keep_checkpoints)
    network.set_attn_implementation("eager")  # for rows this short the fused kernels cost more, backward above all
    network.train()
    with workers(int(os.environ.get("OMP_NUM_THREADS", "1"))) as pool:
        for step in progress(range(training.done, steps), "pretrain", steps, done=training.done):
            share = lr_schedule(settings, step, steps)
            loss, answer_loss = update(training, rows.batch(step, settings.batch_rows), settings, share, pool)
            if not math.isfinite(loss):
                raise D4SError(f"training diverged: the loss is {loss} at step {step + 1} of {steps}; lower muon_lr or adam_lr")
            if training.done % CURVE_EVERY == 0 or training.done == steps:
                tokens = training.done * settings.batch_rows * rows.ids.shape[1]
                training.curve.append((training.done, tokens, loss, answer_loss, settings.muon_lr * share))
                log.debug("step %d of %d: loss %.3f, answers %.3f", training.done, steps, loss, answer_loss)
            if training.done in kept:
                write_tensors(job.path(kept_name(training.done)), {name: value.detach() for name, value in network.named_parameters()})
            if training.done % settings.checkpoint_every == 0 and training.done < steps:
                training.save(path, job.digest)
    network.eval()
    return training.curve


@contextmanager
def workers(count: int) -> Iterator[ThreadPoolExecutor]:
    """Threads that compute in parallel, each product on one of them, which wastes less than sharing every product."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with ThreadPoolExecutor(count, initializer=torch.set_num_threads, initargs=(1,)) as pool:
            yield pool
    finally:
        torch.set_num_threads(before)


def update(training: TrainingState, batch: Batch, settings: PretrainSettings, share: float, pool: Executor) -> tuple[float, float]:
    """One step at a share of the full learning rates; returns the loss before it, and that of the answers.

    The batch is always split into the same `PARTS`, so the number of threads does not change the result.
    """
    weights = [*training.network.parameters()]
    total = batch[1][:, 1:].sum()

    def part(ids: Int[Tensor, "part row"], by_token: Float[Tensor, "part row"]) -> tuple[Sequence[Tensor], Float[Tensor, "part next"]]:
        nll = token_losses(training.network(ids, use_cache=False).logits, ids)
        return torch.autograd.grad((nll * by_token[:, 1:]).sum() / total, weights), nll.detach()

    gradients, losses = zip(*pool.map(part, *(tensor.tensor_split(min(PARTS, len(tensor))) for tensor in batch)), strict=True)
    for weight, *parts in zip(weights, *gradients, strict=True):
        weight.grad = functools.reduce(torch.add, parts)
    training.optimisers.step(settings, share, pool)
    training.done += 1
    return weighted_means(torch.cat(losses), batch[1])


def _write_outputs(
    job: StageJob[PretrainSettings], network: GPT2LMHeadModel, tokenizer: PreTrainedTokenizerFast, curve: list[CurveRow]
) -> list[str]:
    """Write model, tokenizer, card, curve and accuracies; returns the names of the files."""
    training_facts = read_training_facts(job.artifact("corpus", "corpora"))
    files = _save_hf(job.folder, network, tokenizer)
    check = accuracies(network, tokenizer, training_facts)
    for row in check:
        log.info("%s, %s wording: accuracy %.4f of %d", row["dataset"], row["wording"], row["accuracy"], row["n"])
    rows = [dict(zip(CURVE.names, row, strict=True)) for row in curve]
    write_table(job.path("curve.parquet"), rows, CURVE)
    write_table(job.path("check.parquet"), check, MODEL_CHECK)
    card = model_card(
        job.folder.name,
        job.settings,
        parameters=network.num_parameters(),
        tokens=int(rows[-1]["tokens"]),
        vocabulary=len(tokenizer),
        training_facts={name: len(training_examples(facts)) for name, facts in training_facts.items()},
        check=check,
    )
    write_text(job.path("README.md"), card)
    return [*files, "curve.parquet", "check.parquet", "README.md"]


def _save_hf(folder: Path, network: GPT2LMHeadModel, tokenizer: PreTrainedTokenizerFast) -> list[str]:
    """Save model and tokenizer to a temporary folder, then move each file."""
    saving = folder / ".saving"
    shutil.rmtree(saving, ignore_errors=True)
    network.save_pretrained(saving)
    tokenizer.save_pretrained(saving)
    names = sorted(path.name for path in saving.iterdir())
    for name in names:
        with atomic_write(folder / name) as temporary:
            (saving / name).replace(temporary)
    saving.rmdir()
    return names
