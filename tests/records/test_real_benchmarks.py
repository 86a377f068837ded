"""The six real benchmarks from the data folder: whole, with their gold answers, with other items as examples."""

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest
import torch
import yaml

from d4s.artifacts import StageJob
from d4s.config import BenchmarkSettings
from d4s.facts.converters import CONVERTERS
from d4s.metrics.benchmark_files import BENCHMARK_FILES, N_SHOTS
from d4s.metrics.lm_eval_bridge import BENCHMARK_OF_TASK, benchmarks
from d4s.models.edited_model import Scores, StopCriterion
from d4s.models.views import LiveModel
from d4s.runs.benchmark import _files
from d4s.runs.run_settings import BenchmarkJobSettings
from d4s.study.resolve import resolve
from d4s.study_settings import Study
from tests.scripted import Replying
from tests.tiny import bpe_tokenizer, tiny_model
from tools.lock import ROOT

COUNTS = {"arc_challenge": 300, "hellaswag": 300, "mmlu": 285, "winogrande": 300, "truthfulqa_mc": 300, "gsm8k": 200}
LOCAL = BenchmarkSettings(tasks="local")
pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(scope="module")
def files(data: Path) -> dict[str, list[Path]]:
    found = {name: [data / file for file in paths] for name, paths in BENCHMARK_FILES.items()}
    if not all(path.is_file() for paths in found.values() for path in paths):
        pytest.skip("the data folder does not hold all six benchmarks")
    return found


@pytest.fixture(scope="module")
def rows(files: Mapping[str, Sequence[Path]]) -> dict[str, list[dict]]:
    return {name: [json.loads(line) for line in paths[0].read_text().split("\n") if line] for name, paths in files.items()}


def even(count: int, nll: float) -> Scores:
    column = torch.full((count, 1), nll)
    return Scores(column, column < 1, torch.zeros(count, 1, dtype=torch.long), torch.ones(count, 1, dtype=torch.bool))


class Watched(Replying):
    """Finds everything equally likely and remembers its prompts."""

    def __init__(self) -> None:
        self.prompts: list[str] = []
        self.written: list[str] = []

    def score(self, prompts: Sequence[str], targets: Sequence[str]) -> Scores:
        self.prompts += prompts
        return even(len(prompts), 1.0)

    def generate(self, prompts: Sequence[str], max_new_tokens: int, should_stop: StopCriterion | None = None) -> list[str]:
        self.written += prompts
        return ["nothing"] * len(prompts)

    def sample(self, prompts: Sequence[str], draws: torch.Tensor, top_k: int) -> list[str]:
        raise NotImplementedError

    def text_nll(self, rows: Sequence[Sequence[int]]) -> torch.Tensor:
        return torch.zeros(len(rows))

    def weight_changes(self) -> None:
        return None


def last_question(prompt: str) -> str:
    """What a prompt asks after its examples."""
    for mark in ("\nQ: ", "Question: "):
        if mark in prompt:
            return prompt.rpartition(mark)[2]
    return prompt.rpartition("\n\n")[2]


def right_answers(rows: Mapping[str, Sequence[Mapping]]) -> set[tuple[str, str]]:
    """Every last question with its gold answers, read off the records without any code of ours."""
    found = {(f"{row['question']}\nAnswer:", row["choices"][row["gold"]]) for row in rows["arc_challenge"]}
    found |= {(f"{row['activity_label']}: {row['ctx']}", row["endings"][row["label"]]) for row in rows["hellaswag"]}
    found |= {(row["context_options"][row["gold"]], row["continuation"]) for row in rows["winogrande"]}
    for row in rows["mmlu"]:
        options = "\n".join(f"{letter}. {choice}" for letter, choice in zip("ABCD", row["choices"], strict=True))
        found.add((f"{row['question'].strip()}\n{options}\nAnswer:".rpartition("\n\n")[2], "ABCD"[row["gold"]]))
    for row in rows["truthfulqa_mc"]:
        found |= {(f"{row['question']}\nA:", target["text"]) for target in row["mc1_targets"] + row["mc2_targets"] if target["label"]}
    return {(question.rpartition("\n\n")[2].rstrip(), answer.strip()) for question, answer in found}


class Student(Watched):
    """Knows the gold answer of every item by heart; gives it, or anything but it."""

    def __init__(self, rows: Mapping[str, Sequence[Mapping]], is_willing: bool) -> None:
        super().__init__()
        self.is_willing = is_willing
        self.right = right_answers(rows)
        self.solutions = {f"{row['question']}\nAnswer:": row["answer"] for row in rows["gsm8k"]}

    def score(self, prompts: Sequence[str], targets: Sequence[str]) -> Scores:
        scores = even(len(prompts), 800.0)
        for place, (prompt, target) in enumerate(zip(prompts, targets, strict=True)):
            asked = last_question(prompt).rpartition("\n\n")[2]
            if ((asked, target) in self.right) == self.is_willing:
                scores.nll[place] = 0.001
        return scores

    def generate(self, prompts: Sequence[str], max_new_tokens: int, should_stop: StopCriterion | None = None) -> list[str]:
        assert max_new_tokens == 256
        answers = [self.solutions[last_question(prompt)] for prompt in prompts]
        return [f" {answer}\n\nQuestion: 7 #### 7" if self.is_willing else " #### -77" for answer in answers]


def test_who_prefers_the_gold_answers_scores_one_and_who_avoids_them_zero(files, rows) -> None:
    knowing = benchmarks(Student(rows, is_willing=True), files, LOCAL).set_index("task")
    avoiding = benchmarks(Student(rows, is_willing=False), files, BenchmarkSettings(tasks="local", limit=60)).set_index("task")
    assert list(knowing.index) == list(BENCHMARK_OF_TASK)
    assert knowing["value"].tolist() == pytest.approx([1.0] * len(BENCHMARK_OF_TASK))
    assert avoiding["value"].tolist() == pytest.approx([0.0] * len(BENCHMARK_OF_TASK))
    assert {task: knowing.loc[task, "n"] for task in BENCHMARK_OF_TASK} == {
        task: COUNTS[BENCHMARK_OF_TASK[task]] for task in BENCHMARK_OF_TASK
    }
    assert {name: len(found) for name, found in rows.items()} == COUNTS
    assert knowing["metric"].to_dict() == {
        "arc_challenge": "acc_norm",
        "hellaswag": "acc_norm",
        "mmlu": "acc",
        "winogrande": "acc",
        "truthfulqa_mc1": "acc",
        "truthfulqa_mc2": "acc",
        "gsm8k": "exact_match",
    }


@pytest.fixture(scope="module")
def prompts(files) -> list[str]:
    watched = Watched()
    benchmarks(watched, files, BenchmarkSettings(tasks="local", limit=30))
    return [*dict.fromkeys([*watched.prompts, *watched.written])]


def test_every_question_has_its_number_of_examples_and_is_none_of_them(prompts, rows) -> None:
    arc = [prompt for prompt in prompts if prompt.count("Question: ") == N_SHOTS["arc_challenge"] + 1]
    gsm8k = [prompt for prompt in prompts if prompt.count("####") == N_SHOTS["gsm8k"]]
    mmlu = [prompt for prompt in prompts if prompt.startswith("The following are multiple choice questions")]
    truthfulqa = [prompt for prompt in prompts if prompt.startswith("Q: What is human life expectancy")]
    assert [len(found) for found in (arc, gsm8k, mmlu, truthfulqa)] == [30, 30, 30, 30]
    for prompt in arc:
        questions = re.findall(r"Question: (.*?)\nAnswer:", prompt, re.DOTALL)
        assert questions[-1] not in questions[:-1]
        assert prompt.endswith("\nAnswer:")
    assert all(prompt.count("\nAnswer: ") == 5 and prompt.endswith("\nAnswer:") for prompt in mmlu)
    assert all("about abstract algebra.\n\n" in prompt for prompt in mmlu[:5])
    assert all(prompt.count("\nA:") == 7 for prompt in truthfulqa)
    endings = {(row["ctx"], row["endings"][row["label"]]) for row in rows["hellaswag"][:11]}
    hellaswag = [prompt for prompt in prompts if sum(f"{context} {ending}" in prompt for context, ending in endings) == 10]
    assert len(hellaswag) == 30
    whole = {row["context_options"][row["gold"]] + " " + row["continuation"] for row in rows["winogrande"][:6]}
    assert len([prompt for prompt in prompts if sum(sentence in prompt for sentence in whole) == 5]) == 60


def test_examples_do_not_depend_on_how_many_items_are_asked(files, prompts) -> None:
    few = Watched()
    benchmarks(few, files, BenchmarkSettings(tasks="local", limit=3))
    assert set(few.prompts) | set(few.written) <= set(prompts)


def test_the_number_of_examples_can_be_set(files) -> None:
    watched = Watched()
    fewshot = {"arc_challenge": 0, "hellaswag": 1, "mmlu": 0, "winogrande": 0, "gsm8k": 8}
    benchmarks(watched, files, BenchmarkSettings(tasks="local", limit=1, fewshot=fewshot))
    assert [prompt.count("####") for prompt in watched.written] == [8]
    assert sum(prompt.startswith("Question: An astronomer observes") for prompt in set(watched.prompts)) == 1
    with pytest.raises(ValueError, match="9 examples are asked for, and 8 other items are there"):
        benchmarks(watched, files, BenchmarkSettings(tasks="local", limit=1, fewshot={"gsm8k": 9}))


def test_a_random_model_goes_through_all_six(files) -> None:
    model = tiny_model(positions=512, tokenizer=bpe_tokenizer())
    found = benchmarks(LiveModel(model), files, BenchmarkSettings(tasks="local", limit=2), model)
    assert found["task"].tolist() == list(BENCHMARK_OF_TASK)
    assert set(found["n"]) == {2}
    assert found["value"].between(0, 1).all()


def test_running_text_is_cut_into_the_same_articles(raw) -> None:
    articles = raw("wikitext2_raw_test")
    lines = "".join(article["text"] for article in articles).splitlines(keepends=True)
    assert [*CONVERTERS["articles"]({"text": line} for line in lines)] == articles


@pytest.mark.parametrize(("tasks", "count"), [("world", 1), ("local", 8), ("hub", 0)])
def test_a_studys_benchmarks_read_what_they_ask(data, files, tasks, count) -> None:
    content = yaml.safe_load((ROOT / "params.yaml").read_text())
    study = Study.model_validate(content | {"data": str(data), "benchmarks": {"tasks": tasks}})
    [node, *_] = [cell.benchmark for cell in resolve(study).cells if cell.benchmark]
    found = [role for role in node.inputs if role == "world" or role.startswith(("items_", "examples_"))]
    assert len(found) == count
    if tasks == "local":
        read = {role: node.inputs[role].path for role in found}
        assert sorted(read.values()) == sorted(path for paths in files.values() for path in paths)
        settings = BenchmarkJobSettings.model_validate(node.settings)
        assert _files(StageJob("benchmarks", settings, read, Path())) == files
