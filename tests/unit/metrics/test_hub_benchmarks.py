"""The harness's own tasks, with a stand-in for the hub, against this package's over the same items in files."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset, DatasetDict
from pydantic import ValidationError

from d4s.config import BenchmarkSettings
from d4s.errors import SettingsError
from d4s.facts.converters import CONVERTERS
from d4s.metrics.benchmark_files import BENCHMARK_FILES
from d4s.metrics.lm_eval_bridge import BENCHMARK_OF_TASK, benchmarks
from d4s.models.edited_model import Scores, StopCriterion
from tests.scripted import Replying

COUNT = 4
NO_EXAMPLES = {"arc_challenge": 0, "hellaswag": 0, "mmlu": 0, "winogrande": 0, "gsm8k": 0}
SUBJECTS = ("abstract_algebra", "virology")


def arc(n: int) -> dict:
    labels = ["1", "2", "3"] if n % 2 else ["A", "B", "C"]
    return {"id": f"x{n}", "question": f"Why {n}?", "choices": {"text": ["a b", "c", "d"], "label": labels}, "answerKey": labels[n % 3]}


def hellaswag(n: int) -> dict:
    endings = [f"[step] goes  {n}.", "stays.", "runs [title] far.", "sits."]
    return {"activity_label": "Work", "ctx_a": f"[header] A man {n} works.", "ctx_b": "he then", "endings": endings, "label": str(n % 4)}


def winogrande(n: int) -> dict:
    return {"sentence": f"Ann{n} met Eva so _ was glad.", "option1": f"Ann{n}", "option2": "Eva", "answer": str(1 + n % 2)}


def truthfulqa(n: int) -> dict:
    return {
        "question": f"Is it {n}?",
        "mc1_targets": {"choices": ["Yes.", "No.", "So."], "labels": [1, 0, 0]},
        "mc2_targets": {"choices": ["Yes.", "Sure.", "No."], "labels": [1, 1, 0]},
    }


def gsm8k(n: int) -> dict:
    return {"question": f"How many are {n}?", "answer": f"All of {n}.\n#### 1,00{n}"}


def mmlu(n: int, subject: str) -> dict:
    return {"question": f" What is {n}\n\nin {subject}? ", "subject": subject, "choices": ["p", "q", "r", "s"], "answer": n % 4}


MAKERS = {
    "allenai/ai2_arc": arc,
    "Rowan/hellaswag": hellaswag,
    "allenai/winogrande": winogrande,
    "truthfulqa/truthful_qa": truthfulqa,
    "openai/gsm8k": gsm8k,
}
SPLITS = {"allenai/ai2_arc": "test", "openai/gsm8k": "test"}


def load_dataset(path: str, name: str | None = None, **_: Any) -> DatasetDict:
    """What the hub would give: the splits that the tasks name, `train` and `dev` with other items."""
    if path == "cais/mmlu":
        kept = range(COUNT if name in SUBJECTS else 2)
        rows = {"test": [mmlu(n, str(name)) for n in kept], "dev": [mmlu(n, str(name)) for n in range(50, 56)]}
    else:
        make = MAKERS[path]
        rows = {split: [make(n) for n in range(COUNT)] for split in ("test", "validation")}
        rows["train"] = [make(n) for n in range(50, 90)]
    return DatasetDict({split: Dataset.from_list(found) for split, found in rows.items()})


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("datasets.load_dataset", load_dataset)


@pytest.fixture
def files(tmp_path: Path) -> dict[str, list[Path]]:
    """The same items as `d4s fetch` would lay them out."""
    subjects = sorted(path.stem.removeprefix("mmlu_") for path in _mmlu_tasks())
    made = {
        "arc_challenge": [map(arc, range(COUNT))],
        "hellaswag": [map(hellaswag, range(COUNT))],
        "winogrande": [map(winogrande, range(COUNT))],
        "truthfulqa_mc": [map(truthfulqa, range(COUNT))],
        "gsm8k": [map(gsm8k, range(COUNT)), map(gsm8k, range(50, 58))],
        "mmlu": [
            (mmlu(n, subject) for subject in subjects for n in range(COUNT if subject in SUBJECTS else 2)),
            (mmlu(n, subject) for subject in subjects for n in range(50, 56)),
        ],
    }
    for name, parts in made.items():
        for file, rows in zip(BENCHMARK_FILES[name], parts, strict=True):
            path = tmp_path / file
            path.parent.mkdir(exist_ok=True)
            records = enumerate(CONVERTERS[name](iter(rows)))
            path.write_text("".join(json.dumps({"id": number, **row}) + "\n" for number, row in records))
    return {name: [tmp_path / file for file in parts] for name, parts in BENCHMARK_FILES.items()}


def _mmlu_tasks() -> list[Path]:
    import lm_eval.tasks

    return [path for path in (Path(lm_eval.tasks.__file__).parent / "mmlu" / "default").glob("mmlu_*.yaml")]


class Noting(Replying):
    """Remembers every pair; likes some words more than others, always the same ones."""

    def __init__(self) -> None:
        self.pairs: list[tuple[str, str]] = []
        self.prompts: list[str] = []

    def score(self, prompts: Sequence[str], targets: Sequence[str]) -> Scores:
        self.pairs += zip(prompts, targets, strict=True)
        nll = torch.tensor([[1.0 + sum(map(ord, f"{prompt[-9:]}{target}")) % 7] for prompt, target in zip(prompts, targets, strict=True)])
        return Scores(nll, nll < 1, torch.zeros(len(nll), 1, dtype=torch.long), torch.ones(len(nll), 1, dtype=torch.bool))

    def generate(self, prompts: Sequence[str], max_new_tokens: int, should_stop: StopCriterion | None = None) -> list[str]:
        self.prompts += prompts
        return [" so #### 1001." for _ in prompts]

    def sample(self, prompts: Sequence[str], draws: torch.Tensor, top_k: int) -> list[str]:
        raise NotImplementedError

    def text_nll(self, rows: Sequence[Sequence[int]]) -> torch.Tensor:
        return torch.zeros(len(rows))

    def weight_changes(self) -> None:
        return None


@pytest.mark.filterwarnings("ignore")
def test_items_from_files_are_asked_as_the_harness_asks_those_of_the_hub(hub, files) -> None:
    ours, theirs = Noting(), Noting()
    local = benchmarks(ours, files, BenchmarkSettings(tasks="local", fewshot=NO_EXAMPLES))
    harness = benchmarks(theirs, {}, BenchmarkSettings(tasks="hub", fewshot=NO_EXAMPLES))
    assert sorted(ours.pairs) == sorted(theirs.pairs)
    assert sorted(ours.prompts) == sorted(theirs.prompts)
    columns = ["task", "metric", "value", "n"]
    assert local[columns].round(9).to_dict("records") == harness[columns].round(9).to_dict("records")
    assert harness.set_index("task")["n"].to_dict() == dict.fromkeys(BENCHMARK_OF_TASK, COUNT) | {"mmlu": 2 * COUNT + 2 * 55}
    assert harness.set_index("task").loc["gsm8k", "value"] == 1 / COUNT
    assert harness["stderr"].notna().all()


@pytest.mark.filterwarnings("ignore")
def test_the_hubs_tasks_have_the_leaderboards_numbers_of_examples_the_same_each_time(hub) -> None:
    first, again = Noting(), Noting()
    for noting in (first, again):
        benchmarks(noting, {}, BenchmarkSettings(tasks="hub", limit=1))
    assert first.pairs == again.pairs
    assert first.prompts == again.prompts
    prompts = [*dict.fromkeys(prompt for prompt, _ in first.pairs)]
    assert sum(prompt.count("Question: ") == 26 for prompt in prompts) == 1
    assert sum(prompt.count("\nAnswer: ") == 5 for prompt in prompts) == 57
    assert sum(prompt.count("Work: ") == 11 for prompt in prompts) == 1
    assert [prompt.count("####") for prompt in first.prompts] == [5]


@pytest.mark.filterwarnings("ignore")
def test_without_the_hub_the_other_way_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(*_: Any, **__: Any) -> None:
        raise ConnectionError("Couldn't reach 'allenai/ai2_arc' on the Hub")

    monkeypatch.setattr("datasets.load_dataset", unreachable)
    with pytest.raises(SettingsError, match=r"Couldn't reach 'allenai/ai2_arc' on the Hub.*use `tasks: local`"):
        benchmarks(Noting(), {}, BenchmarkSettings(tasks="hub"))


@pytest.mark.parametrize(
    ("settings", "why"),
    [
        ({"tasks": "paper"}, "'world', 'local' or 'hub'"),
        ({"tasks": "world", "fewshot": {"mmlu": 5}}, "the world's tasks have no examples"),
        ({"tasks": "local", "fewshot": {"mmlu": -1}}, "greater than or equal to 0"),
        ({"tasks": "local", "fewshot": {"truthfulqa_mc": 6}}, "fewshot"),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings: dict, why: str) -> None:
    with pytest.raises(ValidationError, match=why):
        BenchmarkSettings(**settings)
