"""The families of editors by name, imported only when one is built.

Terms and symbols: docs/notation.md.
"""

from typing import TYPE_CHECKING

from d4s.editors.editor_settings import FamilySettings
from d4s.registry import Registry

if TYPE_CHECKING:
    from d4s.editors.protocol import Editor

FAMILIES = Registry(
    "editor family",
    {
        "locate_then_edit": "d4s.editors.locate_then_edit:LocateThenEditEditor",
        "one_time_batch": "d4s.editors.one_time_batch:OneTimeBatchEditor",
        "fine_tune": "d4s.editors.finetune:FineTuneEditor",
        "locft": "d4s.editors.locft:LocFTEditor",
        "gradient_regression": "d4s.editors.gradient_regression:GradientRegressionEditor",
        "mend": "d4s.editors.mend:MendEditor",
        "grace": "d4s.editors.grace:GraceEditor",
        "wise": "d4s.editors.wise:WiseEditor",
        "memoir": "d4s.editors.memoir:MemoirEditor",
        "defer": "d4s.editors.defer:DeferEditor",
        "t_patcher": "d4s.editors.t_patcher:TransformerPatcherEditor",
        "melo": "d4s.editors.melo:MeloEditor",
        "serac": "d4s.editors.serac:SeracEditor",
        "in_context": "d4s.editors.in_context:InContextEditor",
        "knowledge_neurons": "d4s.editors.knowledge_neurons:KnowledgeNeuronsEditor",
        "unedited": "d4s.editors.unedited:UneditedEditor",
    },
)


def modules_of(settings: FamilySettings) -> tuple[str, ...]:
    """Dotted modules of the settings' family and parts; what a run's code digest covers. Imports nothing."""
    return tuple(dict.fromkeys((FAMILIES.module(settings.family), *(type(part).__module__ for part in settings.parts()))))


def build(settings: FamilySettings) -> "Editor":
    """The editor that settings describe."""
    return FAMILIES.load(settings.family)(settings)
