"""The bridge to lm-evaluation-harness: any edited model as its language model, and tasks whose items are JSONL files.

Six tasks have the shapes of the paper's six benchmarks: as the world asks them (`tasks/*.yaml`), and with the usual
prompts for real records (`tasks/standard/*.yaml`). The harness takes seconds to import, so everything of it is
imported when a benchmark runs.
"""

import hashlib
import json
import logging
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import pandas as pd

from d4s.errors import ArtifactError
from d4s.models.edited import EditedModel
from d4s.models.language_model import LanguageModel
from d4s.models.tokens import encode, start_of_text

TASKS = Path(__file__).parent / "tasks"
WORLD_TASKS = {
    "arc_challenge": "arc_challenge",
    "hellaswag": "hellaswag",
    "mmlu": "mmlu",
    "winogrande": "winogrande",
    "truthfulqa_mc1": "truthfulqa_mc",
    "truthfulqa_mc2": "truthfulqa_mc",
    "gsm8k": "gsm8k",
}
METRIC = {"hellaswag": "acc_norm", "gsm8k": "exact_match"}
DEFAULT_NEW_TOKENS = 16
Wording = Literal["world", "standard"]


def harness_model(model: EditedModel, language: LanguageModel | None = None) -> Any:
    """An `lm_eval` language model that answers with an edited model's `score`, `generate` and `text_nll`.

    One space stands between context and continuation, whatever spaces they came with. `language` gives the token ids
    that rolling log-likelihoods need.
    """
    from lm_eval.api.model import LM

    class Bridge(LM):
        """Requests of the harness turned into calls of the edited model."""

        def loglikelihood(self, requests: Sequence[Any], **_: Any) -> list[tuple[float, bool]]:
            """Joint log-likelihood of each continuation, and whether greedy decoding gives it."""
            pairs = [(request.args[0].rstrip(), request.args[1].strip()) for request in requests]
            scores = model.score([context for context, _ in pairs], [continuation for _, continuation in pairs])
            values = (-scores.joint_nll()).tolist()
            return list(zip(map(_finite, values, pairs), scores.exact().tolist(), strict=True))

        def loglikelihood_rolling(self, requests: Sequence[Any], **_: Any) -> list[float]:
            """Log-likelihood of whole texts, in windows as long as the model's positions.

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
                texts = model.generate([requests[place].args[0].rstrip() for place in places], count)
                found.update(zip(places, texts, strict=True))
            return [_cut(found[place], request.args[1].get("until", [])) for place, request in enumerate(requests)]

    return Bridge()


def _finite(value: float, pair: tuple[str, str]) -> float:
    """A log-likelihood, or in place of one that is no number a very low one in fixed random order: a guess, not a win by position."""
    if math.isfinite(value):
        return value
    return -1e9 - int.from_bytes(hashlib.sha256("\n".join(pair).encode()).digest()[:4], "big")


def _new_tokens(request: Any) -> int:
    return int(request.args[1].get("max_gen_toks", DEFAULT_NEW_TOKENS))


def _cut(text: str, stops: Sequence[str]) -> str:
    ends = [text.index(stop) for stop in stops if stop and stop in text]
    return (text[: min(ends)] if ends else text).strip()


def _rolling(model: EditedModel, language: LanguageModel, text: str) -> float:
    """Log-likelihood of a text, each token once; a window scores only what no earlier one has scored."""
    from lm_eval.utils import get_rolling_token_windows

    start, ids = start_of_text(language), encode(language, text)
    ids = ids[1:] if ids[:1] == [start] else ids
    rows = [*_rows(get_rolling_token_windows(ids, prefix_token=start, max_seq_len=language.max_positions, context_len=1))]
    return float(model.text_nll([seen for _, seen in rows]).sum() - model.text_nll([whole for whole, _ in rows]).sum())


def _rows(windows: Iterator[tuple[list[int], list[int]]]) -> Iterator[tuple[list[int], list[int]]]:
    """Each window whole, and the part of it that is only context: the difference of their losses is the window's own."""
    for seen, predicted in windows:
        whole = [*seen, predicted[-1]]
        yield whole, whole[: len(whole) - len(predicted)]


def benchmarks(model: EditedModel, items: Path, limit: int | None = None, wording: Wording = "world") -> pd.DataFrame:
    """Accuracy of a model on the six tasks with standard errors, in rows of BENCHMARK without `step`.

    `items` is a folder of TASK.jsonl or TASK/TASK.jsonl files. TruthfulQA's two readings are two rows.

    Raises:
        ArtifactError: if the items of a task are missing.
    """
    from lm_eval.api import task as harness
    from lm_eval.evaluator import evaluate
    from lm_eval.tasks import TaskManager

    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    harness.tqdm = lambda items, **_: items  # its bars are drawn on stderr whether or not that is a terminal
    files = {task: _file(items, name) for task, name in WORLD_TASKS.items()}
    manager = TaskManager(include_defaults=False, include_path=str(TASKS))
    definitions = [{"task": f"{wording}_{task}", "custom_dataset": _Items(file)} for task, file in files.items()]
    tasks = manager.load({"group": wording, "task": definitions})["tasks"]
    # one bootstrap draw asks the harness for standard errors; those of means are closed forms and draw nothing
    found: Any = evaluate(lm=harness_model(model), task_dict=tasks, limit=limit, bootstrap_iters=1, log_samples=False)
    return pd.DataFrame([_row(task, found, f"{wording}_{task}") for task in WORLD_TASKS])


def _file(items: Path, name: str) -> Path:
    found = [
        path for path in (items / f"{name}.jsonl", items / name / f"{name}.jsonl", items / name / f"{name}_test.jsonl") if path.is_file()
    ]
    if not found:
        raise ArtifactError(f"{items / name}.jsonl is missing: the benchmark has no items for this task; make or restore them")
    return found[0]


class _Items:
    """A task's items as the harness wants a data set."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __call__(self, **_: Any) -> Any:
        """The items as the only split."""
        from datasets import Dataset, DatasetDict

        rows = [json.loads(line) for line in self.path.read_text(encoding="utf-8").splitlines()]
        return DatasetDict({"test": Dataset.from_list(rows)})


def _row(task: str, found: dict[str, Any], name: str) -> dict[str, Any]:
    metric = METRIC.get(task, "acc")
    result = found["results"][name]
    key = next(key for key in result if key.startswith(f"{metric},"))
    error = result.get(key.replace(",", "_stderr,", 1))
    return {
        "task": task,
        "metric": metric,
        "value": float(result[key]),
        "stderr": float(error) if isinstance(error, float) else float("nan"),
        "n": int(found["n-samples"][name]["effective"]),
    }
