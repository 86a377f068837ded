"""The stage `summarize`: a study's plan handed to the gathering of its measures, and the list of what it uses in the store."""

from d4s.analysis.dataset_samples import write_items
from d4s.analysis.dvc_metrics import write_metrics
from d4s.analysis.gather import CellFolders, gather
from d4s.analysis.shifted_answers import AnswerFolders
from d4s.analysis.single_edits import SingleFolders
from d4s.analysis.traced_facts import TraceFolders
from d4s.artifacts import Artifact, write_json
from d4s.schemas import CELL
from d4s.study.graph import Node
from d4s.study.plan import StudyPlan
from d4s.study.resolve import resolve, results_folder
from d4s.study_settings import Study

STORE_LIST = "store.json"
CRITERIA_FILE = "criteria.json"


def summarize(study: Study) -> None:
    """Gather every cell of a study into results/STUDY, with the criteria of its models and the folders of the store it uses."""
    plan = resolve(study)
    out = results_folder(study)
    folders = [node.folder for node in plan.nodes]
    gather(cells_of(plan), out, folders, singles_of(plan), traces_of(plan), answers=answers_of(plan))
    write_items(out / "data" / "items.parquet", {name: node.folder for name, node in plan.facts.items()})
    write_metrics(out)
    write_json(
        out / CRITERIA_FILE, {node.label: Artifact.open(node.folder, node.kind).json("criteria.json") for node in plan.world_reports}
    )
    write_json(out / STORE_LIST, sorted(str(node.folder) for node in plan.nodes))
    write_json(out / "study.json", study.model_dump(mode="json"))


def cells_of(plan: StudyPlan) -> list[CellFolders]:
    """The cells of a plan as the gathering wants them: names and folders."""
    return [
        CellFolders(
            model=cell.key.model,
            dataset=cell.key.dataset,
            editor=cell.key.editor,
            seed=cell.key.seed,
            steps=cell.lengths,
            run=cell.run.folder,
            measure=cell.measure.folder,
            benchmark=cell.benchmark.folder if cell.benchmark else None,
            benchmark_steps=cell.benchmark_lengths,
            objectives=cell.objectives.folder,
            free_answers=tuple(node.folder for node in cell.free_answers),
        )
        for cell in plan.cells
    ]


def singles_of(plan: StudyPlan) -> list[SingleFolders]:
    """The cells of single edits of a plan as the gathering wants them."""
    return [
        SingleFolders(
            *(getattr(cell.key, name) for name in CELL),
            requests=cell.requests,
            folder=cell.singles.folder,
            posterior=node.folder if isinstance(node := cell.singles.inputs.get("posterior"), Node) else None,
        )
        for cell in plan.singles
    ]


def traces_of(plan: StudyPlan) -> list[TraceFolders]:
    """The traced facts of a plan as the gathering wants them."""
    return [TraceFolders(one.model, one.dataset, one.seed, one.facts, one.traces.folder) for one in plan.traces]


def answers_of(plan: StudyPlan) -> list[AnswerFolders]:
    """The answers to shifted prompts of a plan as the gathering wants them."""
    return [
        AnswerFolders(*(getattr(one.key, name) for name in CELL), lengths=one.lengths, folder=one.answers.folder) for one in plan.answers
    ]
