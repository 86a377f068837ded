"""Inspection of a model folder behind `d4s doctor`: its parts, and the result of every conformance check; changes nothing."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from rich.table import Table

from d4s.models.adapter_conformance import AdapterCase, CheckResult, check_results
from d4s.models.adapters import ADAPTERS
from d4s.models.finite_check import require_finite
from d4s.models.language_model import LanguageModel
from d4s.models.loading import load
from d4s.terminal import console

SAMPLE = "Ada Moss lives in the city of Paris ."
WIDTH = 120


@dataclass(frozen=True, slots=True)
class ModelReport:
    """Facts about a model by name, and the result of each check."""

    facts: Mapping[str, str]
    check_results: Sequence[CheckResult]

    @property
    def is_valid(self) -> bool:
        """Whether every check passed."""
        return not any(result.failures for result in self.check_results)


def inspect_model(source: str | Path, dtype: str) -> ModelReport:
    """Load a model and run every check; raises the errors of loading, and of numbers that are not finite."""
    model = load(source, dtype=dtype)
    require_finite(model)
    return ModelReport(_architecture(model) | _texts(model), check_results(AdapterCase(model)))


def show(report: ModelReport) -> None:
    """Print a report as one table on standard output."""
    table = Table(show_header=False, width=WIDTH)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in report.facts.items():
        table.add_row(name, value)
    table.add_section()
    for result in report.check_results:
        table.add_row(result.check, "\n".join(f"fail: {why}" for why in result.failures) or "pass")
    console(WIDTH).print(table)


def _architecture(model: LanguageModel) -> dict[str, str]:
    adapter, config = model.adapter, model.network.config
    norm = f"{adapter.post_norm}: locate-then-edit works before it" if adapter.post_norm else "none"
    cap = getattr(config, adapter.logit_cap) if adapter.logit_cap else None
    return {
        "model type": adapter.model_type,
        "adapter": "row of d4s.models.adapters" if adapter.model_type in ADAPTERS else "found by inspection; no row",
        "blocks": f"{model.n_layers} {type(model.block(0)).__name__} in {adapter.blocks}",
        "module edited": f"{adapter.mlp_out}, a {type(model.mlp_out(0)).__name__} stored {adapter.weight_layout}",
        "d_in, d_out": f"{model.d_in()}, {model.d_out()}",
        "norm after the MLP": norm,
        "logits": f"{adapter.unembed} after {adapter.final_norm}" + (f", capped at {cap}" if cap is not None else ""),
        "dtype": str(model.dtype).removeprefix("torch."),
        "positions": f"{model.max_positions}" + (f", attention window {model.window}" if model.window is not None else ""),
    }


def _texts(model: LanguageModel) -> dict[str, str]:
    """The tokens that the tokenizer adds around a text, and whether its offsets cover a text."""
    tokenizer = model.tokenizer
    encoding = next(iter(tokenizer([SAMPLE], add_special_tokens=True, verbose=False).encodings or ()))
    special = encoding.special_tokens_mask
    first = special.index(0) if 0 in special else len(special)
    last = len(special) - special[::-1].index(0) if 0 in special else len(special)
    around = [" ".join(encoding.tokens[:first]) or "nothing", " ".join(encoding.tokens[last:]) or "nothing"]
    spans = [span for span, is_special in zip(encoding.offsets, special, strict=True) if not is_special]
    lost = {place for place, letter in enumerate(SAMPLE) if letter != " "} - {place for span in spans for place in range(*span)}
    grows = all(one[0] <= other[0] for one, other in pairwise(spans))
    start = tokenizer.bos_token or tokenizer.eos_token or "nothing"
    return {
        "tokenizer": f"{len(tokenizer)} tokens; {around[0]} before a text, {around[1]} after it; an empty text is {start}",
        "offsets": "cover every letter in order" if not lost and grows else f"lose {len(lost)} letters of {SAMPLE!r}",
    }
