"""The stage `baseline`: what the unedited model answers, once per model, data set and seed, for every editor that is held against it.

Replies to all questions about requests are made in blocks that no length changes (`bBLOCK.json`); perplexity of held-out text and norms
of weights, which are about the model as a whole, are one part more (`whole.json`). Runs read the replies for their look right after an
edit, measures read both.
"""

import logging
from collections.abc import Sequence
from dataclasses import asdict

from d4s.artifacts import StageJob, write_json, write_table
from d4s.editors.edit_requests import REQUESTS_PER_BLOCK, draw_requests
from d4s.facts.record import Fact, from_frame
from d4s.log import progress
from d4s.metrics.fluency import continuations
from d4s.metrics.perplexity import perplexities
from d4s.metrics.scoring import unedited_predictions
from d4s.metrics.weight_norms import original_norms
from d4s.models.language_model import LanguageModel
from d4s.models.loading import load
from d4s.models.tokens import encode_pairs
from d4s.models.views import LiveModel
from d4s.runs.baseline_reader import NUMBERS_FILE, NUMBERS_MANIFEST, continuations_file
from d4s.runs.run_settings import BaselineSettings
from d4s.schemas import CONTINUATIONS, FACTS, REPLIES

log = logging.getLogger(__name__)


def baseline(job: StageJob[BaselineSettings]) -> None:
    """Write the replies of every block asked for, and the numbers of the whole model, where they are not there yet."""
    missing_parts = [*job.missing_parts()]
    if not missing_parts:
        return
    model = job.read_once("model", load)
    facts = from_frame(job.artifact("facts", "facts").table("facts.parquet", FACTS))
    drawn = [fact for _, fact in draw_requests(facts, job.settings.seed)]
    tokens = _longest_answer(model, facts, job.settings.max_new_tokens)
    for part in progress(missing_parts, "parts of the baseline"):
        if part == NUMBERS_MANIFEST:
            _write_numbers(job, model)
        else:
            _write_block(job, model, drawn, int(part.removesuffix(".json").removeprefix("b")), tokens)


def _write_block(job: StageJob[BaselineSettings], model: LanguageModel, drawn: Sequence[Fact], block: int, max_new_tokens: int) -> None:
    facts, probes = drawn[block * REQUESTS_PER_BLOCK : (block + 1) * REQUESTS_PER_BLOCK], job.settings.probes_per_fact
    predictions = unedited_predictions(LiveModel(model), facts, probes_per_fact=probes, max_new_tokens=max_new_tokens)
    rows = [
        {"fact_id": item.fact_id, "kind": item.kind, "prompt_id": item.prompt_id, "answer": item.answer, **asdict(prediction)}
        for item, prediction in predictions.items()
    ]
    names = [f"b{block}.replies.parquet"]
    write_table(job.path(names[0]), rows, REPLIES)
    if job.settings.fluency is not None:
        first = -block * REQUESTS_PER_BLOCK % job.settings.fluency.every
        texts = continuations(LiveModel(model), facts[first :: job.settings.fluency.every], job.settings.fluency)
        names.append(continuations_file(block))
        write_table(job.path(names[1]), [asdict(text) for text in texts], CONTINUATIONS)
    job.write_manifest(names, f"b{block}.json", facts=[fact.fact_id for fact in facts], max_new_tokens=max_new_tokens)


def _write_numbers(job: StageJob[BaselineSettings], model: LanguageModel) -> None:
    rows = job.artifact("text", "corpora").tensors("heldout.safetensors")["rows"][: job.settings.perplexity_rows].tolist()
    write_json(job.path(NUMBERS_FILE), {"perplexities": perplexities(LiveModel(model), rows), "norms": original_norms(model)})
    job.write_manifest([NUMBERS_FILE], NUMBERS_MANIFEST)


def _longest_answer(model: LanguageModel, facts: Sequence[Fact], max_new_tokens: int) -> int:
    """Tokens of a free answer, two more than the longest target of all has: an answer that ends before it could never be right."""
    if not max_new_tokens:
        return 0
    with_target = [fact for fact in facts if fact.target_new.strip()]
    pairs = encode_pairs(model, [fact.prompt for fact in with_target], [fact.target_new for fact in with_target])
    return max(max_new_tokens, max((len(target) for _, target in pairs), default=0) + 2)
