"""The `corpus` stage: facts to be taught and free text in, a tokenizer and rows of training tokens out."""

import logging
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerFast

from d4s.artifacts import StageJob, write_tensors, write_text
from d4s.config import CorpusSettings
from d4s.errors import SettingsError
from d4s.facts.record import Fact
from d4s.log import progress
from d4s.pretraining.free_text import FreeText, RunningText, WorldText
from d4s.pretraining.packing import Packer, WeightedTokens, encode, pack_text
from d4s.pretraining.sentences import Sentence, SentenceSampler, TrainingExample, mixture, training_examples
from d4s.pretraining.tokenizer_training import bos_of, load_given_tokenizer, train_tokenizer
from d4s.pretraining.training_facts import collect_training_facts, write_training_facts

log = logging.getLogger(__name__)
SAMPLE_ROWS = 40


def corpus(job: StageJob[CorpusSettings]) -> None:
    """Write tokenizer/, tokens.safetensors (rows, weights), heldout.safetensors (rows), sample.txt and training_facts/.

    Raises:
        SettingsError: if facts are to be taught in a given model's tokens, or there is nothing to learn from.
    """
    settings = job.settings
    training_facts = collect_training_facts(job)
    text = _free_text(job)
    if settings.tokenizer.kind == "model":
        if training_facts:
            raise SettingsError("tokenizer.kind `model` makes rows of running text only; leave out the facts or train a tokenizer")
        tokenizer = load_given_tokenizer(job.inputs["model"])
        rows = pack_text(_tokens(tokenizer, text.lines), settings.row, bos_of(tokenizer))
        rows, weights, too_long = rows[: -(-settings.tokens // settings.row)], None, 0
    else:
        if not training_facts:
            raise SettingsError("a corpus for a model trained here needs facts to teach: give at least one input teach_NAME")
        examples = _training_examples(training_facts)
        facts = [fact for some in training_facts.values() for fact in some]
        vocabulary_texts = [*text.lines, *text.heldout, *text.lead_ins] if settings.tokenizer.kind == "word" else list(text.lines)
        tokenizer = train_tokenizer(settings.tokenizer, facts, vocabulary_texts, settings.row)
        rows, weights, too_long = _mixed_rows(settings, examples, text, tokenizer)
    heldout = pack_text(_tokens(tokenizer, text.heldout), settings.row, bos_of(tokenizer))
    _write(job, tokenizer, rows, np.ones_like(rows, dtype=np.float16) if weights is None else weights, heldout)
    log.info("%d rows of %d tokens, %d held out; %d sentences were too long", len(rows), settings.row, len(heldout), too_long)
    files = [str(path.relative_to(job.folder)) for path in sorted(job.path("tokenizer").iterdir())]
    files += write_training_facts(job, training_facts)
    job.write_manifest([*files, "tokens.safetensors", "heldout.safetensors", "sample.txt"], too_long=too_long, vocabulary=len(tokenizer))


def _training_examples(training_facts: dict[str, list[Fact]]) -> dict[str, list[TrainingExample]]:
    """What each data set teaches.

    Raises:
        SettingsError: if one teaches nothing.
    """
    examples = {name: training_examples(facts) for name, facts in training_facts.items()}
    if empty := [name for name, found in examples.items() if not found]:
        raise SettingsError(
            f"no training text from {', '.join(empty)}: it needs facts with a `target_true` and with wordings that no fact withholds,"
            " and no fact there has both; leave these data sets out of `datasets`"
        )
    return examples


def _free_text(job: StageJob[CorpusSettings]) -> FreeText:
    if "world" in job.inputs:
        world = job.artifact("world", "worlds")
        return WorldText.read(world.path("filler.txt"), world.path("heldout.txt"))
    return RunningText.read(job.inputs["text"])


def _tokens(tokenizer: PreTrainedTokenizerFast, lines: Sequence[str]) -> list[list[int]]:
    return [found.ids for found in tokenizer.backend_tokenizer.encode_batch(list(lines), add_special_tokens=False)]


def _mixed_rows(
    settings: CorpusSettings, examples: dict[str, list[TrainingExample]], text: FreeText, tokenizer: PreTrainedTokenizerFast
) -> tuple[np.ndarray, np.ndarray, int]:
    """Rows in which facts and free text are mixed evenly from the first to the last."""
    of_facts, of_text, of_rows = (np.random.default_rng(seed) for seed in np.random.SeedSequence(settings.seed).spawn(3))
    samplers = {name: SentenceSampler(some, settings) for name, some in examples.items()}
    backend = tokenizer.backend_tokenizer
    sentences = _encoded_sentences(settings, samplers, text, backend, of_facts)
    packer = Packer(sentences, _filler(settings, text, backend, of_text), settings.row, bos_of(tokenizer) or 0)
    count = -(-settings.tokens // settings.row)
    rows = np.zeros((count, settings.row), dtype=np.int32)
    weights = np.zeros((count, settings.row), dtype=np.float16)
    for index in progress(range(count), "corpus", count):
        has_bos = int((index + 1) * settings.bos) > int(index * settings.bos)
        row = packer.row(free_text_only=text.fills_rows and of_rows.random() < settings.filler, bos=has_bos)
        rows[index], weights[index] = row.ids, row.weights
    return rows, weights, packer.too_long


def _encoded_sentences(
    settings: CorpusSettings, samplers: dict[str, SentenceSampler], text: FreeText, backend: Tokenizer, rng: np.random.Generator
) -> Iterator[WeightedTokens]:
    for sentence, is_clause in mixture(samplers, settings.shares, rng):
        while not text.fills_rows and rng.random() < settings.filler:
            yield encode(backend, Sentence(text.piece(rng), weight=settings.text_weight))
        lead_in = text.lead_in(rng, is_clause) if rng.random() < settings.lead_ins else ""
        yield encode(backend, sentence.after(lead_in))


def _filler(settings: CorpusSettings, text: FreeText, backend: Tokenizer, rng: np.random.Generator) -> Iterator[WeightedTokens]:
    while True:
        yield encode(backend, Sentence(text.piece(rng), weight=settings.text_weight))


def _write(
    job: StageJob[CorpusSettings], tokenizer: PreTrainedTokenizerFast, rows: np.ndarray, weights: np.ndarray, heldout: np.ndarray
) -> None:
    tokenizer.save_pretrained(job.path("tokenizer"))
    write_tensors(job.path("tokens.safetensors"), {"rows": torch.from_numpy(rows), "weights": torch.from_numpy(weights)})
    write_tensors(job.path("heldout.safetensors"), {"rows": torch.from_numpy(heldout)})
    sample = [tokenizer.backend_tokenizer.decode(row) for row in rows[:SAMPLE_ROWS].tolist()]
    write_text(job.path("sample.txt"), "\n\n".join(sample) + "\n")
