"""The artefacts of free answers in a plan: what a cell's states answer, what the unedited model does, and what a judge says of it."""

from collections.abc import Callable, Iterator
from pathlib import Path

from d4s.editors.editor_settings import Unedited, parse_editor
from d4s.editors.families import modules_of
from d4s.judging.judges import JUDGES
from d4s.study.graph import Node, RawFile
from d4s.study.plan import CellKey
from d4s.study_settings import Study
from d4s.writer_settings import RecordedJudgeSettings

ONLY_MEASURED = ("text", "baseline")  # inputs of measures that free answers do not read


def free_answer_nodes(study: Study, make: Callable[..., Node], key: CellKey, measure: Node) -> Iterator[Node]:
    """The free answers of the cell that `measure` measures, then the verdicts on them, each where the study asks for it."""
    asked, judge = study.measure.free_answers, study.judge
    if asked is None:
        return
    answers = _answers(study, make, key, measure)
    yield answers
    if judge is None:
        return
    recorded = {"recorded": RawFile(Path(judge.store))} if isinstance(judge, RecordedJudgeSettings) else {}
    yield make(
        "judge",
        answers.label,
        {"judge": dict(judge)},
        {"answers": answers, **recorded},
        outputs=measure.outputs,
        modules=(JUDGES.module(judge.judge),),
        unhashed_settings={"judge": dict(judge)},
    )


def _answers(study: Study, make: Callable[..., Node], key: CellKey, measure: Node) -> Node:
    """The free answers of a cell; those of the unedited model are made once per draw, and every other cell reads them."""
    asked = {"free_answers": study.measure.free_answers, "probes_per_fact": study.measure.probes_per_fact}
    unedited = make(
        "answer",
        f"{key.model}.{key.dataset}.unedited.s{key.seed}",
        {"editor": Unedited().model_dump(mode="json"), "seed": key.seed, **asked},
        {role: measure.inputs[role] for role in ("model", "facts")},
        outputs=measure.outputs,
        modules=modules_of(Unedited()),
    )
    editor = parse_editor(measure.settings["editor"])
    if isinstance(editor, Unedited):
        return unedited
    inputs = {role: node for role, node in measure.inputs.items() if role not in ONLY_MEASURED}
    settings = {"editor": measure.settings["editor"], "seed": key.seed, **asked}
    return make("answer", measure.label, settings, inputs | {"unedited": unedited}, outputs=measure.outputs, modules=modules_of(editor))
