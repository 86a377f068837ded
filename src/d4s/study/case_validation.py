"""What is wrong with a study's models that are asked otherwise, its hard cases, and the data sets that keep some facts."""

from collections.abc import Iterator
from pathlib import Path
from typing import get_args

from d4s.config import CaseSet
from d4s.registry import nearest
from d4s.study_settings import AskedModel, FactsDataset, GridRow, HFModel, Study


def case_problems(study: Study) -> Iterator[str]:
    """Everything that is wrong with them, in words, each with where it stands."""
    for name, model in study.models.items():
        trained = study.models.get(model.of) if isinstance(model, AskedModel) else None
        if isinstance(model, AskedModel) and (trained is None or isinstance(trained, AskedModel | HFModel)):
            known = [other for other, found in study.models.items() if not isinstance(found, AskedModel | HFModel)]
            yield f"models.{name}.of: {model.of!r} is no model that this study trains; {nearest(model.of, known)}"
    for name, dataset in study.datasets.items():
        if isinstance(dataset, FactsDataset) and dataset.only is not None:
            yield from _kept(study, dataset, f"datasets.{name}.only")
    if study.hard_cases is not None:
        yield from _looked_for(study)


def _kept(study: Study, dataset: FactsDataset, where: str) -> Iterator[str]:
    if dataset.only not in get_args(CaseSet):
        if not Path(str(dataset.only)).is_file():
            yield f"{where}: {dataset.only} does not exist; name a file with an id per line, `hard` or `normal`"
        return
    if study.hard_cases is None:
        yield f"{where}: {dataset.only!r} needs `hard_cases`, which says among which single edits they are looked for"
        return
    source = study.datasets.get(study.hard_cases.dataset)
    if isinstance(source, FactsDataset) and source != dataset.model_copy(update={"only": None}):
        yield f"{where}: its facts are not those of {study.hard_cases.dataset!r}, which `hard_cases` ranks; give both the same settings"


def _looked_for(study: Study) -> Iterator[str]:
    chosen = study.hard_cases
    if chosen is None:
        return
    source = study.datasets.get(chosen.dataset)
    if not isinstance(source, FactsDataset) or source.only is not None or source.problem == "reversal":
        yield f"hard_cases.dataset: {chosen.dataset!r} is no data set of facts as they are read; name one without `only`"
    for editor in chosen.editors:
        if not any(_edits_alone(row, editor, chosen.model, chosen.dataset) for row in study.grid):
            yield (
                f"hard_cases.editors: no row edits {chosen.dataset!r} of {chosen.model!r} by {editor!r} with `protocol: single` and `text` "
                "among its probes; add one, or leave the editor out"
            )


def _edits_alone(row: GridRow, editor: str, model: str, dataset: str) -> bool:
    names = model in row.models and dataset in row.datasets and editor in row.editors
    return names and row.protocol == "single" and "text" in row.probes and row.sweep is None
