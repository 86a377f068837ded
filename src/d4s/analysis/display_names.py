"""Display names of methods, data sets, forms, tasks and metrics; the paper's methods; the references."""

from collections.abc import Mapping

from d4s.editors.presets import PRESETS

REFERENCES = ("unedited", "one_time_batch")
LONG_SEQUENCE = 100  # the paper compares averages from this number of edits on
PAPER_METHODS = ("ft_l", "ft_m", "kn", "rome", "memit", "pmet", "grace")
DAMAGE_METHODS = ("kn", "rome", "memit")

FORM_NAMES: Mapping[str, str] = {
    "true_false": "True/false",
    "multiple_choice": "Multiple choice",
    "directly_generated": "Directly generated",
}
CONTROL_NAMES: Mapping[str, str] = {
    "long_predictable": "Long, predictable",
    "short_surprising": "Short, surprising",
    "uniform": "Uniform",
    "diverse": "Diverse",
}
_FORM_ENDINGS = {"tf": "true_false", "mc": "multiple_choice", "dg": "directly_generated"}
_DATASETS = {
    "beliefs": "Beliefs",
    "world_qa": "World QA",
    "world_events": "World events",
    "world_labels": "World labels",
    "world_commonsense": "World commonsense",
    "counterfact": "CounterFact",
    "zsre": "zsRE",
    "zsre_mend": "zsRE",
    "elken": "ELKEN",
    "atomic2020": "ATOMIC",
}
_TASKS = {
    "arc_challenge": "ARC-Challenge",
    "arc": "ARC",
    "hellaswag": "HellaSwag",
    "mmlu": "MMLU",
    "winogrande": "WinoGrande",
    "truthfulqa_mc": "TruthfulQA",
    "truthfulqa_mc1": "TruthfulQA",
    "truthfulqa": "TruthfulQA",
    "gsm8k": "GSM8K",
}
NOT_IN_TASK_MEAN = (
    "truthfulqa_mc2",
    "true_false",
)  # not in the mean over tasks: the second reading of TruthfulQA, and the world's true/false task
METRIC_NAMES: Mapping[str, str] = {
    "efficacy_accuracy": "Efficacy",
    "paraphrase_accuracy": "Paraphrase",
    "locality_accuracy": "Specificity",
}
HEADLINE_METRICS = tuple(METRIC_NAMES)


def method_name(editor: str) -> str:
    """Display name of an editor; its own name where it has none."""
    return PRESETS[editor].title if editor in PRESETS else editor.replace("_", " ")


def method_order(editor: str) -> tuple[int, str]:
    """Sort key of editors: the order of the presets, then by name."""
    return ([*PRESETS].index(editor) if editor in PRESETS else len(PRESETS), editor)


def sorted_editors(editors: object) -> list[str]:
    """Distinct editors in the order of all figures and tables."""
    return sorted({str(editor) for editor in editors}, key=method_order)  # type: ignore[attr-defined]


def form_of(dataset: str, settings: Mapping[str, Mapping[str, object]] | None = None) -> str | None:
    """Form of a multi-question data set: from the study's settings of its data sets, else from a name such as `mqd_tf`."""
    if settings and dataset in settings:
        form = settings[dataset].get("form")
        return str(form) if form else None
    return _FORM_ENDINGS.get(dataset.rpartition("_")[2]) if dataset.startswith("mqd") else None


def dataset_name(dataset: str) -> str:
    """Display name of a data set."""
    form = form_of(dataset)
    if form:
        return FORM_NAMES[form]
    return _DATASETS.get(dataset) or CONTROL_NAMES.get(dataset) or dataset.replace("_", " ")


def task_name(task: str) -> str:
    """Display name of a benchmark task; a task made from the world has the name of the task whose format it has."""
    return _TASKS.get(task, task.replace("_", " "))
