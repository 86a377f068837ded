"""The six benchmarks through lm-evaluation-harness: tasks, few-shot examples and scores.

Three sources: the world's tasks of the same shapes (`tasks/*.yaml`), real items in the data folder with the harness's
wordings and the leaderboard's few-shot examples (`tasks/local/*.yaml`), and the harness's own definitions with data from the hub.
"""

import json
import logging
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import pandas as pd

from d4s.config import BenchmarkSettings
from d4s.errors import ArtifactError, SettingsError
from d4s.metrics.benchmark_files import BENCHMARK_OF_TASK, BENCHMARK_OF_WORLD_TASK, N_SHOTS
from d4s.metrics.lm_eval_model import harness_model
from d4s.models.edited_model import EditedModel
from d4s.models.language_model import LanguageModel

TASKS = Path(__file__).parent / "tasks"
WORLD_METRICS = {"hellaswag": "acc_norm", "gsm8k": "exact_match"}
REAL_METRICS = {"arc_challenge": "acc_norm", "hellaswag": "acc_norm", "gsm8k": "exact_match,strict-match"}
HARNESS_FOLDERS = ("arc", "hellaswag", "mmlu/default", "winogrande", "truthfulqa", "gsm8k")  # reading all of them takes half a minute
SEED = 1234  # the harness's own seed, for few-shot examples of its own definitions

Files = Mapping[str, Sequence[Path]]


def benchmarks(
    model: EditedModel, files: Files, settings: BenchmarkSettings | None = None, language: LanguageModel | None = None
) -> pd.DataFrame:
    """Scores of a model on the benchmarks with standard errors, in rows of BENCHMARK without `step`.

    Args:
        model: The model to benchmark.
        files: By benchmark the file of items, then that of few-shot examples; unused for tasks from the hub.
        settings: Source of the tasks, number of items, number of few-shot examples.
        language: Tokenises contexts to cut those that do not fit; without it none is cut.

    TruthfulQA gives two rows, MC1 and MC2.
    """
    from lm_eval.api import task as harness
    from lm_eval.evaluator import evaluate

    settings = settings or BenchmarkSettings()
    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    harness.tqdm = lambda items, **_: items  # the harness draws its progress bars on stderr even without a terminal
    _compile_once()
    loaded = _from_hub() if settings.tasks == "hub" else _from_files(settings.tasks, files)
    prefix = "" if settings.tasks == "hub" else f"{settings.tasks}_"
    if settings.tasks != "world":
        _set_fewshot(loaded["tasks"], prefix, settings)
    # with one bootstrap draw the harness gives standard errors; those of means are closed forms and draw nothing
    evaluation: Any = evaluate(
        lm=harness_model(model, language), task_dict=loaded, limit=settings.limit, bootstrap_iters=1, log_samples=False
    )
    metrics = WORLD_METRICS if settings.tasks == "world" else REAL_METRICS
    return pd.DataFrame(
        [_row(task, metrics.get(task, "acc"), evaluation, f"{prefix}{task}") for task in _benchmark_of_task(settings.tasks)]
    )


def _compile_once() -> None:
    """Make the harness compile each template once; by default it does so for every item, which takes longer than a small model's answer."""
    from lm_eval import utils

    if not hasattr(utils.env.from_string, "cache_info"):
        once: Any = lru_cache(maxsize=1024)(utils.env.from_string)
        utils.env.from_string = once


def _benchmark_of_task(kind: str) -> Mapping[str, str]:
    return BENCHMARK_OF_WORLD_TASK if kind == "world" else BENCHMARK_OF_TASK


def _from_files(kind: str, files: Files) -> dict[str, Any]:
    """The tasks of this package over items in files.

    Raises:
        ArtifactError: if the items of a benchmark are missing.
    """
    from lm_eval.tasks import TaskManager

    missing = [f"{paths[0]}" for paths in files.values() for path in paths if not path.is_file()]
    missing += sorted(set(_benchmark_of_task(kind).values()) - set(files))
    if missing:
        raise ArtifactError(f"items of a benchmark are missing: {', '.join(missing)}; make or restore them")
    manager = TaskManager(include_defaults=False, include_path=str(TASKS))
    definitions = [{"task": f"{kind}_{task}", "custom_dataset": _Items(files[name])} for task, name in _benchmark_of_task(kind).items()]
    return {"tasks": manager.load({"group": kind, "task": definitions})["tasks"]}


def _from_hub() -> dict[str, Any]:
    """The harness's own tasks; their data are downloaded unless cached.

    Raises:
        SettingsError: if the hub cannot be reached.
    """
    import lm_eval.tasks

    folders: list[str | Path] = [Path(lm_eval.tasks.__file__).parent / name for name in HARNESS_FOLDERS]
    manager = lm_eval.tasks.TaskManager(include_defaults=False, include_path=folders)
    try:
        return dict(manager.load([*BENCHMARK_OF_TASK]))
    except OSError as error:
        raise SettingsError(
            f"benchmarks.tasks: hub: the items cannot be loaded from the hub ({str(error).partition(chr(10))[0]}); "
            "use `tasks: local` with the items in the data folder (`d4s fetch` lists them)"
        ) from None


def _set_fewshot(tasks: Mapping[str, Any], prefix: str, settings: BenchmarkSettings) -> None:
    """Set the number of few-shot examples of each task but TruthfulQA, which has its own."""
    shots = {**N_SHOTS, **settings.fewshot}
    for name, task in tasks.items():
        task.set_fewshot_seed(SEED)
        for benchmark, count in shots.items():
            if name.removeprefix(prefix) == benchmark or name.startswith(f"{benchmark}_"):
                task.set_config(key="num_fewshot", value=count)


class _Items:
    """A benchmark's items in the form of a data set loader of the harness."""

    def __init__(self, paths: Sequence[Path]) -> None:
        self.paths = paths

    def __call__(self, **_: Any) -> Any:
        """The items as a single split; those of the first file are evaluated."""
        from datasets import Dataset, DatasetDict

        rows = [
            json.loads(line) | {"asked": number == 0}
            for number, path in enumerate(self.paths)
            for line in path.read_text(encoding="utf-8").split("\n")
            if line.strip()
        ]
        return DatasetDict({"test": Dataset.from_list(rows)})


def _row(task: str, metric: str, evaluation: Mapping[str, Any], name: str) -> dict[str, Any]:
    result = evaluation["results"][name]
    key = next(key for key in result if f"{key},".startswith(f"{metric},"))
    error = result.get(key.replace(",", "_stderr,", 1))
    counts = [count["effective"] for leaf, count in evaluation["n-samples"].items() if leaf == name or leaf.startswith(f"{name}_")]
    return {
        "task": task,
        "metric": metric.partition(",")[0],
        "value": float(result[key]),
        "stderr": float(error) if isinstance(error, float) else float("nan"),
        "n": int(sum(counts)),
    }
