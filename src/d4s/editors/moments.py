"""Second moments of the keys: what the MLP output matrices of a model read from text, all layers in one pass.

In: a model and rows of token ids. Out: per layer Σ k kᵀ in float64 and the number of tokens; sums of parts add up.

Terms and symbols: docs/notation.md.
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float, Float64, Int
from torch import Tensor

from d4s.artifacts import Artifact, StageJob, write_tensors
from d4s.config import MomentsSettings
from d4s.errors import SettingsError
from d4s.log import progress
from d4s.models.language_model import LanguageModel
from d4s.models.loading import load
from d4s.models.trace import trace

log = logging.getLogger(__name__)
TOKENS_PER_ENTRY = 4  # times as many tokens as a key has entries


@dataclass(frozen=True, slots=True)
class SecondMoment:
    """Sum and count of k kᵀ over tokens, not centred; the mean is computed on reading, parts add up."""

    sum_kk: Float64[Tensor, "d_in d_in"]
    n_tokens: int
    source: str

    def mean(self) -> Float64[Tensor, "d_in d_in"]:
        """E[k kᵀ], the matrix that papers call C₀."""
        return self.sum_kk / self.n_tokens


def collect_moments(
    model: LanguageModel, rows: Int[Tensor, "n row"], layers: Sequence[int], batch_rows: int, source: str
) -> dict[int, SecondMoment]:
    """Second moments of the keys of several layers over all tokens of the rows, the first of each row included.

    Products are taken in the model's precision batch by batch and summed in float64.
    """
    sums = {
        layer: torch.zeros(model.d_in(layer), model.d_in(layer), dtype=torch.float64, device=model.state_device(layer)) for layer in layers
    }
    batches = rows.split(batch_rows)
    for batch in progress(batches, "second moments", len(batches)):
        for layer, keys in _keys(model, batch, layers).items():
            sums[layer] += (keys.mT @ keys).to(sums[layer].device)
    return {layer: SecondMoment(total, rows.numel(), source) for layer, total in sums.items()}


@torch.no_grad()
def _keys(model: LanguageModel, batch: Int[Tensor, "b row"], layers: Sequence[int]) -> dict[int, Float[Tensor, "t d_in"]]:
    """The keys of every token, by layer, from a pass that ends at the last of the layers."""
    with trace({layer: model.mlp_out(layer) for layer in layers}, stop_after=max(layers)) as found:
        model.network.base_model(input_ids=batch.to(model.device, torch.long), use_cache=False)
    precision = torch.promote_types(model.dtype, torch.float32)
    return {layer: keys.flatten(0, 1).to(precision) for layer, keys in found.inputs.items()}


def check_token_count(tokens: int, entries: int) -> None:
    """Refuse text that says too little of what is to be preserved.

    Raises:
        SettingsError: if there are fewer tokens than a key has entries, so that some directions are never seen.
    """
    if tokens < entries:
        raise SettingsError(f"second moments of keys of {entries} entries need more than {tokens} tokens; ask for more, of a longer text")
    if tokens < TOKENS_PER_ENTRY * entries:
        log.warning("%d tokens for keys of %d entries are few; a longer text tells better what to preserve", tokens, entries)


def evenly_spaced_rows(rows: Int[Tensor, "n row"], tokens: int) -> Int[Tensor, "m row"]:
    """Enough rows for a number of tokens, evenly spread over all of them: neighbouring text is strongly correlated."""
    count = min(len(rows), -(-tokens // rows.shape[1]))
    return rows[torch.linspace(0, len(rows) - 1, count).round().long()]


def moments(job: StageJob[MomentsSettings]) -> None:
    """Write lLAYER.safetensors (`sum_kk`, `n_tokens`) for every manifest lLAYER.json asked for that is not there yet.

    A layer's sums do not depend on which others are read in the same pass, so any number of jobs may share the layers of a
    folder, at the same time too.

    Raises:
        SettingsError: if the text has fewer tokens than a key has entries.
    """
    layers = sorted(int(Path(name).stem.removeprefix("l")) for name in job.missing_parts())
    if not layers:
        return
    model = load(job.inputs["model"])
    text = job.artifact("text", "corpora")
    rows = evenly_spaced_rows(text.tensors("tokens.safetensors")["rows"], job.settings.tokens)
    check_token_count(rows.numel(), max(map(model.d_in, layers)))
    log.info("second moments of layers %s over %d tokens; %d others are there", layers, rows.numel(), len(job.outputs) - len(layers))
    for layer, moment in collect_moments(model, rows, layers, job.settings.batch_rows, text.manifest.name).items():
        tensors = {"sum_kk": moment.sum_kk.cpu(), "n_tokens": torch.tensor(moment.n_tokens)}
        write_tensors(job.path(f"l{layer}.safetensors"), tensors)
        job.write_manifest([f"l{layer}.safetensors"], f"l{layer}.json", source=moment.source)


def read_moments(folder: Path, layers: Sequence[int]) -> Mapping[int, SecondMoment]:
    """The second moments of layers in an artefact's folder, checked."""
    found: dict[int, SecondMoment] = {}
    for layer, artifact in zip(layers, Artifact.open_parts(folder, "moments", [f"l{layer}.json" for layer in layers]), strict=True):
        tensors = artifact.tensors(f"l{layer}.safetensors")
        found[layer] = SecondMoment(tensors["sum_kk"], int(tensors["n_tokens"]), artifact.manifest.notes["source"])
    return found
