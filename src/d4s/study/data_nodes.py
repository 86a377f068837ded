"""The nodes of a study's data: worlds, records and questions as facts; what `resolve` builds the rest on."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from d4s.config import FactsSettings
from d4s.facts.event_readers import EVENT_FILES, EVENT_READERS
from d4s.facts.readers import READERS, files_of
from d4s.questions.writers import WRITERS
from d4s.settings_base import canonical, validate
from d4s.study.code_digests import code_digest
from d4s.study.graph import Node, RawFile
from d4s.study.stages import SETTINGS, STAGES
from d4s.study_settings import FactsDataset, QuestionsDataset, Study, data_folder
from d4s.world.reader import STYLES
from d4s.writer_settings import ReplayWriterSettings, TemplateWriterSettings


class DataNodes:
    """Builds nodes bottom up, those of data; equal requests give equal nodes."""

    def __init__(self, study: Study) -> None:
        self.study = study
        self._nodes: dict[tuple[str, ...], Node] = {}
        self._files: dict[Path, RawFile] = {}

    def _node(self, stage: str, label: str, settings: Mapping[str, Any], inputs: Mapping[str, Node | RawFile], **more: Any) -> Node:
        modules = (STAGES[stage].module, *more.pop("modules", ()))
        code = "trusted" if self.study.ignore_code_changes else code_digest(*modules)
        settings = validate(SETTINGS.load(stage), settings, f"settings of {label!r}").model_dump(mode="json")
        node = Node(stage, STAGES[stage].kind, label, settings, code, inputs, **more)
        return self._nodes.setdefault(
            (stage, label, *node.outputs, canonical(settings), code, *(found.digest for found in inputs.values())), node
        )

    # --- data -----------------------------------------------------------------------------------------------------

    def world(self) -> Node:
        """The embedded world."""
        return self._node("world", f"world-s{self.study.world.seed}", self.study.world.model_dump(mode="json"), {})

    def beliefs(self) -> Node:
        """The world of beliefs."""
        return self._node("beliefs", f"beliefs-s{self.study.beliefs.seed}", self.study.beliefs.model_dump(mode="json"), {})

    def raw(self, name: str, file: str = "") -> RawFile:
        """A file of the data folder."""
        path = data_folder(self.study.data) / (file or f"{name}/{name}.jsonl")
        return self._files.setdefault(path, RawFile(path))

    def facts(self, dataset: FactsDataset) -> Node:
        """The facts of the world or of records as they are read."""
        settings = FactsSettings(**dataset.model_dump(exclude={"problem", "only"}))
        label = "_".join(part for part in (dataset.source, dataset.style, str(dataset.limit or "")) if part)
        if dataset.source == "world":
            modules = (READERS.module("world"), STYLES.module(dataset.style))
            return self._node("facts", label, settings.model_dump(mode="json"), {"world": self.world()}, modules=modules)
        inputs: dict[str, Node | RawFile] = {
            role: self.raw(dataset.source, file) for role, file in files_of(dataset.source, dataset.style).items()
        }
        if dataset.source == "beliefs":
            inputs["world"] = self.beliefs()
        return self._node("facts", label, settings.model_dump(mode="json"), inputs, modules=(READERS.module(dataset.source),))

    def questions(self, dataset: QuestionsDataset) -> Node:
        """Events in one form of question."""
        chosen: dict[str, Any] = dataset.model_dump(exclude={"source"})
        writing = self.study.questions
        unhashed_settings: dict[str, Any] = {"writer": "template" if isinstance(writing, TemplateWriterSettings) else dict(writing)}
        label = "_".join(part for part in (dataset.events, dataset.form, str(dataset.limit or "")) if part)
        world = dataset.events == "world"
        inputs: dict[str, Node | RawFile] = (
            {"world": self.world()} if world else {"records": self.raw(dataset.events, EVENT_FILES[dataset.events])}
        )
        if isinstance(writing, ReplayWriterSettings):
            inputs["answers"] = self._files.setdefault(Path(writing.store), RawFile(Path(writing.store)))
        modules = (*(() if world else (EVENT_READERS.module(dataset.events),)), WRITERS.module(writing.writer))
        return self._node("questions", label, chosen | unhashed_settings, inputs, modules=modules, unhashed_settings=unhashed_settings)
