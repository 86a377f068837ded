"""The `corpus` verb: facts to be taught and free text in, a tokenizer and rows of training tokens out."""

import logging
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerFast

from d4s.artifacts import Job, write_tensors, write_text
from d4s.config import CorpusSettings
from d4s.errors import SettingsError
from d4s.facts.record import Fact, from_frame
from d4s.log import progress
from d4s.pretraining.rows import Encoded, Packer, encode, pack_text
from d4s.pretraining.sentences import Lesson, Sentence, Teacher, lessons_of, mixture
from d4s.pretraining.text import FreeText, RunningText, WorldText
from d4s.pretraining.tokenizers import bos_of, given_tokenizer, trained_tokenizer
from d4s.schemas import FACTS

log = logging.getLogger(__name__)
SAMPLE_ROWS = 40


def corpus(job: Job[CorpusSettings]) -> None:
    """Write tokenizer/, tokens.safetensors (rows, weights), heldout.safetensors (rows) and sample.txt.

    Raises:
        SettingsError: if facts are to be taught in a given model's tokens, or there is nothing to learn from.
    """
    settings = job.settings
    taught = taught_facts(job)
    text = _free_text(job)
    if settings.tokenizer.kind == "model":
        if taught:
            raise SettingsError("tokenizer.kind `model` makes rows of running text only; leave out the facts or train a tokenizer")
        tokenizer = given_tokenizer(job.inputs["model"])
        rows = pack_text(_tokens(tokenizer, text.lines), settings.row, bos_of(tokenizer))
        rows, weights, too_long = rows[: -(-settings.tokens // settings.row)], None, 0
    else:
        if not taught:
            raise SettingsError("a corpus for a model trained here needs facts to teach: give at least one input teach_NAME")
        lessons = _lessons(taught)
        facts = [fact for some in taught.values() for fact in some]
        seen = [*text.lines, *text.heldout, *text.lead_ins] if settings.tokenizer.kind == "word" else list(text.lines)
        tokenizer = trained_tokenizer(settings.tokenizer, facts, seen, settings.row)
        rows, weights, too_long = _mixed_rows(settings, lessons, text, tokenizer)
    heldout = pack_text(_tokens(tokenizer, text.heldout), settings.row, bos_of(tokenizer))
    _write(job, tokenizer, rows, np.ones_like(rows, dtype=np.float16) if weights is None else weights, heldout)
    log.info("%d rows of %d tokens, %d held out; %d sentences were too long", len(rows), settings.row, len(heldout), too_long)
    files = [str(path.relative_to(job.folder)) for path in sorted(job.path("tokenizer").iterdir())]
    job.finish([*files, "tokens.safetensors", "heldout.safetensors", "sample.txt"], too_long=too_long, vocabulary=len(tokenizer))


def taught_facts(job: Job[CorpusSettings]) -> dict[str, list[Fact]]:
    """Facts of every `teach_NAME` input, by name."""
    roles = sorted(role for role in job.inputs if role.startswith("teach_"))
    return {role.removeprefix("teach_"): from_frame(job.artifact(role, "facts").table("facts.parquet", FACTS)) for role in roles}


def _lessons(taught: dict[str, list[Fact]]) -> dict[str, list[Lesson]]:
    """What each data set teaches.

    Raises:
        SettingsError: if one teaches nothing.
    """
    lessons = {name: lessons_of(facts) for name, facts in taught.items()}
    if empty := [name for name, found in lessons.items() if not found]:
        raise SettingsError(
            f"nothing can be taught from {', '.join(empty)}: a fact is taught by its `target_true` in wordings that no fact withholds,"
            " and no fact there has both; leave these data sets out of what is taught"
        )
    return lessons


def _free_text(job: Job[CorpusSettings]) -> FreeText:
    if "world" in job.inputs:
        world = job.artifact("world", "worlds")
        return WorldText.read(world.path("filler.txt"), world.path("heldout.txt"))
    return RunningText.read(job.inputs["text"])


def _tokens(tokenizer: PreTrainedTokenizerFast, lines: Sequence[str]) -> list[list[int]]:
    return [found.ids for found in tokenizer.backend_tokenizer.encode_batch(list(lines), add_special_tokens=False)]


def _mixed_rows(
    settings: CorpusSettings, lessons: dict[str, list[Lesson]], text: FreeText, tokenizer: PreTrainedTokenizerFast
) -> tuple[np.ndarray, np.ndarray, int]:
    """Rows in which facts and free text are mixed evenly from the first to the last."""
    of_facts, of_text, of_rows = (np.random.default_rng(seed) for seed in np.random.SeedSequence(settings.seed).spawn(3))
    teachers = {name: Teacher(some, settings) for name, some in lessons.items()}
    backend = tokenizer.backend_tokenizer
    told = _told(settings, teachers, text, backend, of_facts)
    packer = Packer(told, _filler(settings, text, backend, of_text), settings.row, bos_of(tokenizer) or 0)
    count = -(-settings.tokens // settings.row)
    rows = np.zeros((count, settings.row), dtype=np.int32)
    weights = np.zeros((count, settings.row), dtype=np.float16)
    for index in progress(range(count), "corpus", count):
        row = packer.row(free_text_only=text.fills_rows and of_rows.random() < settings.filler)
        rows[index], weights[index] = row.ids, row.weights
    return rows, weights, packer.too_long


def _told(
    settings: CorpusSettings, teachers: dict[str, Teacher], text: FreeText, backend: Tokenizer, rng: np.random.Generator
) -> Iterator[Encoded]:
    for sentence, is_clause in mixture(teachers, settings.shares, rng):
        while not text.fills_rows and rng.random() < settings.filler:
            yield encode(backend, Sentence(text.piece(rng), weight=settings.text_weight))
        lead_in = text.lead_in(rng, is_clause) if rng.random() < settings.lead_ins else ""
        yield encode(backend, sentence.after(lead_in))


def _filler(settings: CorpusSettings, text: FreeText, backend: Tokenizer, rng: np.random.Generator) -> Iterator[Encoded]:
    while True:
        yield encode(backend, Sentence(text.piece(rng), weight=settings.text_weight))


def _write(
    job: Job[CorpusSettings], tokenizer: PreTrainedTokenizerFast, rows: np.ndarray, weights: np.ndarray, heldout: np.ndarray
) -> None:
    tokenizer.save_pretrained(job.path("tokenizer"))
    write_tensors(job.path("tokens.safetensors"), {"rows": torch.from_numpy(rows), "weights": torch.from_numpy(weights)})
    write_tensors(job.path("heldout.safetensors"), {"rows": torch.from_numpy(heldout)})
    shown = [tokenizer.backend_tokenizer.decode(row) for row in rows[:SAMPLE_ROWS].tolist()]
    write_text(job.path("sample.txt"), "\n\n".join(shown) + "\n")
