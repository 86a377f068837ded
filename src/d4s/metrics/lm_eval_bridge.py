"""The bridge to lm-evaluation-harness: any edited model as its language model, and the world's six tasks.

The tasks have the shapes of the paper's six benchmarks (their definitions stand in `tasks/`); their items come from a
folder of JSONL files. The harness takes seconds to import, so everything of it is imported when a benchmark runs.
"""

import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from d4s.errors import ArtifactError
from d4s.models.edited import EditedModel

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


def harness_model(model: EditedModel, max_new_tokens: int = 16) -> Any:
    """An `lm_eval` language model that answers with an edited model's `score`, `generate` and `text_nll`."""
    from lm_eval.api.model import LM

    class Bridge(LM):
        """Requests of the harness turned into calls of the edited model."""

        def loglikelihood(self, requests: Sequence[Any], **_: Any) -> list[tuple[float, bool]]:
            """Joint log-likelihood of each continuation, and whether greedy decoding gives it."""
            prompts = [request.args[0].rstrip() for request in requests]
            scores = model.score(prompts, [request.args[1].strip() for request in requests])
            return list(zip((-scores.joint_nll()).tolist(), scores.exact().tolist(), strict=True))

        def loglikelihood_rolling(self, requests: Sequence[Any], **_: Any) -> list[float]:
            """Log-likelihood of whole texts, each after its first word."""
            parts = [request.args[0].strip().partition(" ") for request in requests]
            scores = model.score([head for head, _, _ in parts], [tail for _, _, tail in parts])
            return (-scores.joint_nll()).tolist()

        def generate_until(self, requests: Sequence[Any], **_: Any) -> list[str]:
            """Greedy continuations up to the first stop string."""
            texts = model.generate([request.args[0].rstrip() for request in requests], max_new_tokens)
            return [_cut(text, request.args[1].get("until", [])) for text, request in zip(texts, requests, strict=True)]

    return Bridge()


def _cut(text: str, stops: Sequence[str]) -> str:
    ends = [text.index(stop) for stop in stops if stop and stop in text]
    return (text[: min(ends)] if ends else text).strip()


def world_benchmarks(model: EditedModel, items: Path, limit: int | None = None) -> pd.DataFrame:
    """Accuracy of a model on the world's tasks with standard errors, in rows of BENCHMARK without `step`.

    `items` is the folder of JSONL files. TruthfulQA's two readings are two rows.
    """
    from lm_eval.evaluator import evaluate
    from lm_eval.tasks import TaskManager

    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    manager = TaskManager(include_defaults=False, include_path=str(TASKS))
    definitions = [{"task": f"world_{task}", "custom_dataset": _Items(items / f"{file}.jsonl")} for task, file in WORLD_TASKS.items()]
    tasks = manager.load({"group": "world", "task": definitions})["tasks"]
    found: Any = evaluate(lm=harness_model(model), task_dict=tasks, limit=limit, bootstrap_iters=0, log_samples=False)
    return pd.DataFrame([_row(task, found) for task in WORLD_TASKS])


class _Items:
    """A task's items as the harness wants a data set."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __call__(self, **_: Any) -> Any:
        """The items as the only split.

        Raises:
            ArtifactError: if there is no such file.
        """
        from datasets import Dataset, DatasetDict

        if not self.path.is_file():
            raise ArtifactError(f"{self.path} is missing: the world's artefact has no items for this task; run the rule `world` again")
        rows = [json.loads(line) for line in self.path.read_text(encoding="utf-8").splitlines()]
        return DatasetDict({"test": Dataset.from_list(rows)})


def _row(task: str, found: dict[str, Any]) -> dict[str, Any]:
    name, metric = f"world_{task}", METRIC.get(task, "acc")
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
