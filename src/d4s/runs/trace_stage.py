"""The stage `trace`: causal tracing of the first requests of a draw, fact by fact, each on disk before the next.

The folder `facts` holds the rows of every traced fact; the table of a number of facts (`nFACTS.traces.parquet`) puts them together, so
more facts continue where fewer ended.
"""

import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from d4s.artifacts import StageJob, read_table, write_table
from d4s.config import TraceJobSettings, TraceSettings
from d4s.editors.edit_requests import EditRequest, draw_requests
from d4s.editors.prompts import check_length
from d4s.errors import ArtifactError
from d4s.facts.record import from_frame
from d4s.log import progress
from d4s.models.causal_trace import CausalTrace, TracedPrompt
from d4s.models.language_model import LanguageModel
from d4s.models.layer_windows import layers_around
from d4s.models.loading import load
from d4s.models.tokens import encode_pair, subject_tokens
from d4s.runs.lengths import length_of
from d4s.schemas import FACTS, TRACES

log = logging.getLogger(__name__)


def trace(job: StageJob[TraceJobSettings]) -> None:
    """Trace the facts of every number asked for, where they are not traced yet, and put their tables together.

    Raises:
        SettingsError: if there are fewer facts than are to be traced.
    """
    counts = sorted(length_of(name) for name in job.missing_parts())
    if not counts:
        return
    facts = from_frame(job.artifact("facts", "facts").table("facts.parquet", FACTS))
    requests = [request for request, _ in draw_requests(facts, job.settings.seed, max(counts))]
    files = [job.path(f"facts/{request.step:06d}.parquet") for request in requests]
    missing = [(request, path) for request, path in zip(requests, files, strict=True) if not _is_whole(path)]
    for request, path in progress(missing, "traced facts", len(requests), done=len(requests) - len(missing)):
        write_table(path, [*trace_rows(job.read_once("model", load), request, job.settings)], TRACES)
    for count in counts:
        name = f"n{count}.traces.parquet"
        write_table(job.path(name), pd.concat([read_table(path, TRACES) for path in files[:count]], ignore_index=True), TRACES)
        job.write_manifest([name], f"n{count}.json")


def trace_rows(model: LanguageModel, request: EditRequest, settings: TraceSettings) -> Iterator[dict[str, Any]]:
    """Rows of TRACES for one request: its true answer followed, every token of the wanted roles restored in every window of layers.

    Raises:
        PromptTooLong: if the prompt with its answer exceeds the model's context.
        ValueError: if a window is centred at a layer that the model does not have.
    """
    prompt, answer = encode_pair(model, request.prompt, request.target_true)
    check_length(model, request, len(prompt) + len(answer) - 1)
    subject = subject_tokens(model, request.prompt, request.subject, request.template)
    traced = TracedPrompt(tuple(prompt), subject, tuple(answer))
    layers: Sequence[int] = range(model.n_layers) if settings.layers == "all" else settings.layers
    if beyond := [layer for layer in layers if layer >= model.n_layers]:
        raise ValueError(f"layers {beyond} are to be traced, but the model has layers 0 to {model.n_layers - 1}")
    windows = [(width, layer) for width in settings.windows for layer in layers]
    found = CausalTrace(model, traced, settings)
    for position in range(subject.start, len(prompt)):
        if (role := traced.role(position)) not in settings.tokens:
            continue
        restored = found.restored([layers_around(layer, width, model.n_layers) for width, layer in windows], range(position, position + 1))
        for (width, layer), probability in zip(windows, restored.tolist(), strict=True):
            yield {
                "request_id": request.request_id,
                "fact_id": request.fact_id,
                "window": width,
                "layer": layer,
                "token_role": role,
                "position": position,
                "p_clean": found.clean,
                "p_corrupt": found.corrupted,
                "p_restored": probability,
            }


def _is_whole(path: Path) -> bool:
    """Whether a fact's rows are there; a file that is no such table is made again."""
    try:
        return path.is_file() and len(read_table(path, TRACES)) > 0
    except ArtifactError:
        return False
