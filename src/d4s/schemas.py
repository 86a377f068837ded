"""Every Parquet schema, one constant each, in long form: one observation per row. The version travels in the metadata."""

import pyarrow as pa

from d4s.schema_version import SCHEMA_VERSION

_text, _int, _real, _flag = pa.string(), pa.int64(), pa.float64(), pa.bool_()
_texts = pa.list_(_text)


def _schema(**columns: pa.DataType) -> pa.Schema:
    return pa.schema(list(columns.items()), metadata={"d4s_schema_version": str(SCHEMA_VERSION)})


PROBE = pa.struct([("kind", _text), ("prompt", _text), ("answer", _text), ("answer_is", _text)])
PORTABILITY = pa.struct([("kind", _text), ("prompt", _text), ("answers", _texts)])

# facts and what they are made from
FACTS = _schema(
    fact_id=_text, dataset=_text, relation=_text, subject=_text, template=_text, target_true=_text, target_new=_text,
    target_true_aliases=_texts, paraphrases=_texts, neighborhood=pa.list_(PROBE), portability=pa.list_(PORTABILITY),
    wordings=_texts, editable=_flag, group=_text, problem=_text,
)  # fmt: skip
REJECTS = _schema(file=_text, line=_int, field=_text, found=_text, expected=_text, record=_text)
PEOPLE = _schema(person_id=_text, name=_text, relation=_text, object=_text, bystander=_flag, reserved=_flag, withheld=_texts)
EVENTS = _schema(event_id=_text, head=_text, relation=_text, tail=_text, bystander=_flag, source=_text)
GRAPH = _schema(subject=_text, relation=_text, object=_text, probability=_real, upstream=_text, upstream_object=_text)
PART = pa.struct([("subject", _text), ("relation", _text), ("object", _text), ("negated", _flag)])
STATEMENTS = _schema(kind=_text, parts=pa.list_(PART), label=_flag)
PROVENANCE = _schema(
    fact_id=_text, event_id=_text, head=_text, relation=_text, tail=_text, writer=_text, prompt_version=_text,
    response_sha256=_text, attempts=_int, fell_back=_text,
)  # fmt: skip
USAGE = _schema(form=_text, quantity=_text, value=_int)
CURVE = _schema(step=_int, tokens=_int, loss=_real, answer_loss=_real, learning_rate=_real)
MODEL_CHECK = _schema(dataset=_text, wording=_text, accuracy=_real, n=_int)
CRITERIA = _schema(criterion=_text, subject=_text, value=_real, threshold=_real, n=_int, passed=_flag)
# targets under the unedited model; probability of all labels that a question offers, null where the target is a phrase
OBJECTIVES = _schema(
    fact_id=_text, target=_text, n_tokens=_int, nll_per_token=_real, nll_first_token=_real, nll_joint=_real, label_mass=_real, text=_text
)  # fmt: skip

# what a Bayesian reader believes before and after a request, by question (see d4s.world.posterior)
BELIEFS = _schema(
    fact_id=_text, question=_text, prompt=_text, answer=_text, prior=_real, posterior=_real, weight=_int, reinforcing=_flag,
    dependent=_flag, changes=_flag, strength=_real,
)  # fmt: skip

# runs: quantities of one step (layer is null where a quantity has none)
IMMEDIATE = ("efficacy_score", "efficacy_accuracy", "paraphrase_accuracy", "locality_accuracy")
"""Quantities of the edit log that are scores right after an edit."""
EDIT_LOG = _schema(step=_int, request_id=_text, fact_id=_text, quantity=_text, layer=_int, value=_real)

# single edits, each from the original weights: numbers of the step by layer, and of each probe by prompt
SINGLES = _schema(
    request_id=_text, fact_id=_text, order=_int, quantity=_text, prompt_id=_int, layer=_int, value=_real, status=_text,
)  # fmt: skip

# single edits by what they do to the perplexity of text, relative to the unedited model (see d4s.analysis.hard_cases); the two sets
HARD = _schema(
    editor=_text, seed=_int, request_id=_text, fact_id=_text, order=_int, status=_text, perplexity_ratio=_real,
    perplexity_row_mean_ratio=_real, perplexity_row_median_ratio=_real, perplexity_row_mean=_real, collapsed=_flag, above_1000=_flag,
    rank=_int,
)  # fmt: skip
CASES = _schema(cases=_text, fact_id=_text, relation=_text, rank=_int, partner=_text)

# what the unedited model replies to every question (see d4s.metrics.probes); arg-max tokens and whether they are the answer's
REPLIES = _schema(
    fact_id=_text, kind=_text, prompt_id=_int, answer=_text, nll=_real, alternative_nll=_real,
    correct=pa.list_(_flag), predicted=pa.list_(_int),
    text=_text,
)  # fmt: skip

# causal tracing: probabilities of the true answer, clean, noised, and with a window of layers at a token restored; answers to prompts
TRACES = _schema(
    request_id=_text, fact_id=_text, window=_int, layer=_int, token_role=_text, position=_int, p_clean=_real, p_corrupt=_real,
    p_restored=_real,
)  # fmt: skip

# texts that a model writes after prompts about edited subjects, by number
ENTROPY, LOOPS = "continuation_entropy", "continuation_loops"
"""Metrics of such texts among the scores: n-gram entropy in bits, and whether a text ends in a loop."""
CONTINUATIONS = _schema(fact_id=_text, number=_int, prompt=_text, text=_text)

# whole answers to raw prompts (see d4s.metrics.free_answers), and what a judge says of them; null where a metric or a verdict is missing
FREE_ANSWERS = _schema(
    step=_int, fact_id=_text, kind=_text, prompt_id=_int, prompt=_text, gold=_text, before=_text, after=_text, wild_exact=_flag,
    contains=_flag, repeats=_flag, length=_int, same_tokens=_real,
)  # fmt: skip
VERDICTS = _schema(step=_int, fact_id=_text, kind=_text, prompt_id=_int, judge=_text, version=_text, correct=_flag, reason=_text)

# answers to shifted prompts, and the mean loss of rows of text: of a model after a number of edits at a share of its change of weights, or
# of one kept on the way of training; of text `correct` is null
ROBUSTNESS = _schema(
    step=_int, share=_real, training_steps=_int, group=_text, shift=_text, fact_id=_text, correct=_flag, nll=_real,
)  # fmt: skip

# what the router of a memory makes of a prompt: the fact whose entry it is in the scope of, if any, and the one that it should be
NEAR_MISSES = "near_miss_accuracy"
"""Metric of near misses among the scores: share of the answer's tokens whose arg-max is still the unedited model's."""
ROUTES = _schema(
    step=_int, fact_id=_text, kind=_text, prompt_id=_int, expected=_text, entry=_text, similarity=_real,
)  # fmt: skip
# a memory of a number of entries: bytes of its records, and processor seconds to find the entry of one prompt
MEMORY = _schema(step=_int, entries=_int, quantity=_text, value=_real)

# measures at one length
SCORES = _schema(step=_int, protocol=_text, fact_id=_text, edited_at=_int, metric=_text, prompt_id=_int, value=_real)
ANSWERS = _schema(step=_int, fact_id=_text, kind=_text, prompt_id=_int, prompt=_text, expected=_text, before=_text, after=_text)
NORMS = _schema(step=_int, layer=_int, quantity=_text, value=_real)
PERPLEXITY = _schema(step=_int, text=_text, quantity=_text, value=_real)
BENCHMARK = _schema(step=_int, task=_text, metric=_text, value=_real, stderr=_real, n=_int)

# what people read; every row is one number of one cell of the grid
INDEX = _schema(
    model=_text, dataset=_text, editor=_text, seed=_int, step=_int, run=_text, measure=_text, benchmark=_text,
    objectives=_text, diverged_at=_int,
)  # fmt: skip
SUMMARY = _schema(
    model=_text, dataset=_text, editor=_text, seed=_int, step=_int, protocol=_text, metric=_text, mean=_real, ci_low=_real,
    ci_high=_real, n=_int,
)  # fmt: skip
ITEMS = _schema(dataset=_text, fact_id=_text, writer=_text, prompt=_text, target_true=_text, target_new=_text, paraphrase=_text)
COSTS = _schema(
    artifact=_text, kind=_text, stage=_text, wall_s=_real, cpu_s=_real, startup_s=_real, peak_rss_mb=_real,
    requests=_int, retries=_int, tokens_in=_int, tokens_out=_int,
)  # fmt: skip

CELL = ("model", "dataset", "editor", "seed")


def with_cell_columns(schema: pa.Schema) -> pa.Schema:
    """The schema of a table gathered over the grid: the cell that a row belongs to, then the row."""
    cell = [(name, _int if name == "seed" else _text) for name in CELL]
    return pa.schema([*cell, *[(item.name, item.type) for item in schema]], metadata=schema.metadata)
