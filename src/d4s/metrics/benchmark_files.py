"""The six benchmarks of the paper: where the items of each lie in the data folder, and how many examples precede a question.

Nothing here imports torch, so that a study can be resolved with it.
"""

from collections.abc import Mapping

BENCHMARK_FILES: Mapping[str, tuple[str, ...]] = {
    "arc_challenge": ("arc_challenge/arc_challenge.jsonl",),
    "hellaswag": ("hellaswag/hellaswag.jsonl",),
    "mmlu": ("mmlu/mmlu_test.jsonl", "mmlu/mmlu_dev.jsonl"),
    "winogrande": ("winogrande/winogrande.jsonl",),
    "truthfulqa_mc": ("truthfulqa_mc/truthfulqa_mc.jsonl",),
    "gsm8k": ("gsm8k/gsm8k.jsonl", "gsm8k/gsm8k_fewshot.jsonl"),
}
"""Items by benchmark; where there is a second file, examples come from it, elsewhere from the other items."""

N_SHOTS: Mapping[str, int] = {"arc_challenge": 25, "hellaswag": 10, "mmlu": 5, "winogrande": 5, "gsm8k": 5}
"""Examples before a question, as on the first Open LLM Leaderboard; TruthfulQA's six questions and answers are part of it."""


def role(benchmark: str, number: int = 0) -> str:
    """The role of a file of items among a job's inputs."""
    return f"items_{benchmark}" if number == 0 else f"examples_{benchmark}"
