"""An edited model as a language model of lm-evaluation-harness; contexts longer than its window are cut from the left.

The harness takes seconds to import, so it is imported when a benchmark runs.
"""

import hashlib
import logging
import math
from collections.abc import Iterator, Sequence
from typing import Any

from d4s.errors import SettingsError
from d4s.models.edited_model import EditedModel
from d4s.models.language_model import LanguageModel
from d4s.models.tokens import Pair, encode, encode_pairs, start_of_text

log = logging.getLogger(__name__)
DEFAULT_NEW_TOKENS = 16


def harness_model(model: EditedModel, language: LanguageModel | None = None) -> Any:
    """An `lm_eval` language model that answers with an edited model's `score`, `generate` and `text_nll`.

    Context and continuation are joined as prompts and targets of facts are, whatever spaces they have. `language` is needed to cut
    contexts and for rolling log-likelihoods.
    """
    from lm_eval.api.model import LM

    class Bridge(LM):
        """Translates requests of the harness into calls of the edited model."""

        def loglikelihood(self, requests: Sequence[Any], **_: Any) -> list[tuple[float, bool]]:
            """Joint log-likelihood of each continuation, and whether it is the greedy one."""
            stripped = [(request.args[0].rstrip(), request.args[1].strip()) for request in requests]
            pairs = stripped if language is None else fitting_pairs(language, stripped)
            scores = model.score([context for context, _ in pairs], [continuation for _, continuation in pairs])
            values = (-scores.joint_nll()).tolist()
            return list(zip(map(_finite, values, pairs), scores.exact().tolist(), strict=True))

        def loglikelihood_rolling(self, requests: Sequence[Any], **_: Any) -> list[float]:
            """Log-likelihood of whole texts, in windows of the model's positions.

            Raises:
                ValueError: if the bridge was made without a language model.
            """
            if language is None:
                raise ValueError("rolling log-likelihoods need token ids: make the bridge with a language model")
            return [_rolling(model, language, request.args[0]) for request in requests]

        def generate_until(self, requests: Sequence[Any], **_: Any) -> list[str]:
            """Greedy continuations up to the first stop string."""
            found: dict[int, str] = {}
            for count in sorted({_new_tokens(request) for request in requests}):
                places = [place for place, request in enumerate(requests) if _new_tokens(request) == count]
                prompts = [requests[place].args[0].rstrip() for place in places]
                texts = model.generate(prompts if language is None else fitting_prompts(language, prompts, count), count)
                found.update(zip(places, texts, strict=True))
            return [_cut(found[place], request.args[1].get("until", [])) for place, request in enumerate(requests)]

    return Bridge()


# --- what fits --------------------------------------------------------------------------------------------------------


def fitting_pairs(language: LanguageModel, pairs: Sequence[tuple[str, str]]) -> list[tuple[str, str]]:
    """Contexts and continuations; where both together exceed the model's positions, the context is cut from the left.

    Raises:
        SettingsError: if a continuation alone does not fit.
    """
    encoded = encode_pairs(language, [context for context, _ in pairs], [continuation for _, continuation in pairs])
    excesses = [_excess(language, pair) for pair in encoded]
    _warn_cut(sum(excess > 0 for excess in excesses), len(pairs), language)
    return [_shortened(language, *pair) if excess > 0 else pair for pair, excess in zip(pairs, excesses, strict=True)]


def _excess(language: LanguageModel, pair: Pair) -> int:
    return len(pair[0]) + len(pair[1]) - 1 - language.max_positions


def _shortened(language: LanguageModel, context: str, continuation: str) -> tuple[str, str]:
    while (excess := _excess(language, encode_pairs(language, [context], [continuation])[0])) > 0:
        if not context:
            raise SettingsError(
                f"benchmarks: {continuation[:40]!r}… alone does not fit the {language.max_positions} positions of this model; "
                "use `tasks: world` for it"
            )
        context = _without_first(language, context, excess)
    return context, continuation


def fitting_prompts(language: LanguageModel, prompts: Sequence[str], new_tokens: int) -> list[str]:
    """Prompts cut from the left where they leave no room for the new tokens, which get up to half the model's positions."""
    room = language.max_positions - min(new_tokens, language.max_positions // 2)
    found = []
    for prompt in prompts:
        kept = prompt
        while (excess := len(encode(language, kept)) - room) > 0:
            kept = _without_first(language, kept, excess)
        found.append(kept)
    _warn_cut(sum(kept != prompt for kept, prompt in zip(found, prompts, strict=True)), len(prompts), language)
    return found


def _without_first(language: LanguageModel, text: str, count: int) -> str:
    """A text without its first `count` tokens, and without the rest of a character cut in the middle."""
    offsets = language.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False).offset_mapping
    start = next((start for start, _ in offsets[count:] if start > 0), len(text))
    return text[start:].lstrip()


def _warn_cut(cut: int, count: int, language: LanguageModel) -> None:
    if cut:
        log.warning("%d of %d contexts were cut from the left to fit %d positions", cut, count, language.max_positions)


# --- answers ----------------------------------------------------------------------------------------------------------


def _finite(value: float, pair: tuple[str, str]) -> float:
    """A log-likelihood; one that is not a number becomes a very low one in fixed random order, a guess rather than a win by position."""
    if math.isfinite(value):
        return value
    return -1e9 - int.from_bytes(hashlib.sha256("\n".join(pair).encode()).digest()[:4], "big")


def _new_tokens(request: Any) -> int:
    return int(request.args[1].get("max_gen_toks", DEFAULT_NEW_TOKENS))


def _cut(text: str, stops: Sequence[str]) -> str:
    ends = [text.index(stop) for stop in stops if stop and stop in text]
    return (text[: min(ends)] if ends else text).strip()


def _rolling(model: EditedModel, language: LanguageModel, text: str) -> float:
    """Log-likelihood of a text, each token once: a window scores only tokens that no earlier window has scored."""
    from lm_eval.utils import get_rolling_token_windows

    start, ids = start_of_text(language), encode(language, text)
    ids = ids[1:] if ids[:1] == [start] else ids
    rows = [*_rows(get_rolling_token_windows(ids, prefix_token=start, max_seq_len=language.max_positions, context_len=1))]
    return float(model.text_nll([seen for _, seen in rows]).sum() - model.text_nll([whole for whole, _ in rows]).sum())


def _rows(windows: Iterator[tuple[list[int], list[int]]]) -> Iterator[tuple[list[int], list[int]]]:
    """Each window whole, and its context alone; the difference of their losses is the window's own."""
    for seen, predicted in windows:
        whole = [*seen, predicted[-1]]
        yield whole, whole[: len(whole) - len(predicted)]
