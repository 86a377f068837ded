"""The verb `baseline`: what the unedited model answers, once per model, data set and seed, for every editor that is held against it.

Replies to all questions about requests are made in blocks that no length changes (`bBLOCK.json`); perplexity of held-out text and norms
of weights, which are about the model as a whole, are one part more (`whole.json`). Runs read the replies for their look right after an
edit, measures read both.
"""

import logging
from collections.abc import Sequence
from dataclasses import asdict

from d4s.artifacts import Job, write_json, write_table
from d4s.facts.record import Fact, from_frame
from d4s.log import progress
from d4s.metrics.norms import originals
from d4s.metrics.perplexity import perplexities
from d4s.metrics.scoring import unedited_replies
from d4s.models.language_model import LanguageModel
from d4s.models.loading import load
from d4s.models.tokens import encode_pairs
from d4s.models.views import LiveModel
from d4s.requests.draw import REQUESTS_PER_BLOCK, draw
from d4s.runs.references import NUMBERS, WHOLE
from d4s.runs.settings import BaselineSettings
from d4s.schemas import FACTS, REPLIES

log = logging.getLogger(__name__)


def baseline(job: Job[BaselineSettings]) -> None:
    """Write the replies of every block asked for, and the numbers of the whole model, where they are not there yet."""
    pending = [*job.pending()]
    if not pending:
        return
    model = job.once("model", load)
    facts = from_frame(job.artifact("facts", "facts").table("facts.parquet", FACTS))
    drawn = [fact for _, fact in draw(facts, job.settings.seed)]
    tokens = _longest_answer(model, facts, job.settings.max_new_tokens)
    for part in progress(pending, "parts of the baseline"):
        if part == WHOLE:
            _write_whole(job, model)
        else:
            _write_block(job, model, drawn, int(part.removesuffix(".json").removeprefix("b")), tokens)


def _write_block(job: Job[BaselineSettings], model: LanguageModel, drawn: Sequence[Fact], block: int, max_new_tokens: int) -> None:
    facts, probes = drawn[block * REQUESTS_PER_BLOCK : (block + 1) * REQUESTS_PER_BLOCK], job.settings.probes_per_fact
    replies = unedited_replies(LiveModel(model), facts, probes_per_fact=probes, max_new_tokens=max_new_tokens)
    rows = [
        {"fact_id": item.fact_id, "kind": item.kind, "prompt_id": item.prompt_id, "answer": item.answer, **asdict(reply)}
        for item, reply in replies.items()
    ]
    name = f"b{block}.replies.parquet"
    write_table(job.path(name), rows, REPLIES)
    job.finish_part([name], f"b{block}.json", facts=[fact.fact_id for fact in facts], max_new_tokens=max_new_tokens)


def _write_whole(job: Job[BaselineSettings], model: LanguageModel) -> None:
    rows = job.artifact("text", "corpora").tensors("heldout.safetensors")["rows"][: job.settings.perplexity_rows].tolist()
    write_json(job.path(NUMBERS), {"perplexities": perplexities(LiveModel(model), rows), "norms": originals(model)})
    job.finish_part([NUMBERS], WHOLE)


def _longest_answer(model: LanguageModel, facts: Sequence[Fact], max_new_tokens: int) -> int:
    """Tokens of a free answer, two more than the longest target of all has: an answer that ends before it could never be right."""
    if not max_new_tokens:
        return 0
    asked = [fact for fact in facts if fact.target_new.strip()]
    pairs = encode_pairs(model, [fact.prompt for fact in asked], [fact.target_new for fact in asked])
    return max(max_new_tokens, max((len(target) for _, target in pairs), default=0) + 2)
