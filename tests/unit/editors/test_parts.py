"""A part that is defined outside of the package: it edits, is planned for, and is described, like those within."""

from collections.abc import Iterator
from typing import ClassVar, Literal

import pytest
from pydantic import Field

from d4s.analysis.compositions import Composition, composition
from d4s.analysis.display_names import method_name
from d4s.editors.edited_layers import EditedLayer
from d4s.editors.editor_settings import parse_editor, resolve
from d4s.editors.families import modules_of
from d4s.editors.parts.part import DOUBLE, Keys
from d4s.editors.parts.part_families import LayerTransform, StepTransform
from d4s.editors.presets import PRESETS, Preset
from d4s.errors import SettingsError
from d4s.models.model_shape import Shape
from d4s.resources import memory_estimate
from d4s.study.code_digests import code_digest
from d4s.testing.editor_conformance import check_editor
from tests.cases import SMALL, case_for
from tests.oracle.plain import requests_of
from tools import methods_page, settings_page

SHAPE = Shape("gpt2", 12, 768, 3072, 12, 12, 64, 50_257, 1024, is_gated=False, is_tied=True)


@pytest.fixture(scope="module")
def shrink() -> Iterator[type[StepTransform]]:
    """A step transform that no module of the package knows, registered while the tests run."""
    known = dict(StepTransform.kinds)

    class Shrink(StepTransform):
        """Write a share of each step."""

        kind: Literal["shrink"] = "shrink"
        share: float = Field(default=0.5, gt=0, description="The share.")

        label: ClassVar[str] = "shrunk"
        formula: ClassVar[str] = "*G ← share · G*"

        def at(self, layer: EditedLayer) -> LayerTransform:
            return ShrinkLayer(self.share)

        def bytes(self, shape: Shape) -> int:
            return 3 * DOUBLE

    class ShrinkLayer(LayerTransform):
        def __init__(self, share: float) -> None:
            self.share = share

        def right(self, keys: Keys, gain: Keys) -> Keys:
            return self.share * gain

    yield Shrink
    StepTransform.kinds.clear()
    StepTransform.kinds.update(known)


SHRUNK = {"preset": "memit", **SMALL, "step_transform": "shrink"}


def test_it_is_chosen_by_its_kind_and_recorded(shrink: type[StepTransform]) -> None:
    settings = resolve("mine", SHRUNK, "mini")
    assert settings.step_transform == shrink()
    assert parse_editor(settings.model_dump(mode="json")) == settings
    with pytest.raises(SettingsError, match=r"step_transform: unknown step_transform; did you mean 'shrink'\?"):
        resolve("mine", SHRUNK | {"step_transform": "shrnk"}, "mini")
    with pytest.raises(SettingsError, match=r"step_transform\.shre: unknown key; did you mean 'share'"):
        resolve("mine", SHRUNK | {"step_transform": {"kind": "shrink", "shre": 1}}, "mini")


def test_it_keeps_the_contract_of_editors(shrink: type[StepTransform]) -> None:
    check_editor(case_for(resolve("mine", SHRUNK, "mini")))


def test_it_changes_what_is_written(shrink: type[StepTransform]) -> None:
    changes = {}
    for name, overrides in {"whole": SHRUNK | {"step_transform": None}, "shrunk": SHRUNK}.items():
        settings = resolve("mine", overrides | {"layers": [1]}, "mini")
        case = case_for(settings, count=1)
        model, editor = case.make_model(), case.make_editor()
        with editor.editing(model, case.prepared, editor.start(model, case.prepared)) as session:
            session.step(requests_of(1), case.targets)
            changes[name] = session.deltas()[1].clone()
    assert changes["whole"].norm() > 0
    assert (changes["shrunk"] - 0.5 * changes["whole"]).norm() < 1e-12


def test_its_memory_is_planned(shrink: type[StepTransform]) -> None:
    placement, sizes = memory_estimate.ModelPlacement(SHAPE), memory_estimate.PromptSizes()
    shrunk, whole = (
        memory_estimate.edit(placement, resolve("mine", SHRUNK | {"step_transform": transform}, "mini"), 10, sizes)[0]
        for transform in ("shrink", None)
    )
    assert shrunk["state"] - whole["state"] == len(SMALL["layers"]) * 3 * DOUBLE


def test_its_code_is_a_runs_code(shrink: type[StepTransform]) -> None:
    modules = modules_of(resolve("mine", SHRUNK, "mini"))
    assert modules[-1] == __name__
    assert code_digest(*modules) != code_digest(*modules[:-1])


def test_it_is_described_by_pages_and_labels(shrink: type[StepTransform], monkeypatch: pytest.MonkeyPatch) -> None:
    row = Preset("Shrunk MEMIT", "Nobody 2099", "", "It is mine.", "locate_then_edit", PRESETS["memit"].base, {"step_transform": "shrink"})
    monkeypatch.setitem(PRESETS, "shrunk", row)  # type: ignore[arg-type]
    page = methods_page.page()
    assert f"| `step_transform: shrink` | *G ← share · G* | `{__name__}` | [`shrunk`](#shrunk) |" in page
    assert "### `shrunk`\n\nShrunk MEMIT. It is mine.\n" in page
    assert "### Shrink\n\nWrite a share of each step." in settings_page.tables()
    assert method_name("shrunk") == "Shrunk MEMIT"
    assert composition(resolve("shrunk", {}, "mini").model_dump(mode="json")) == Composition("none", ("shrunk",))


def test_a_kind_is_registered_once_and_only_with_a_formula(shrink: type[StepTransform]) -> None:
    with pytest.raises(TypeError, match=r"step_transform `shrink` of tests\.unit\.editors\.test_parts is registered already"):

        class Again(StepTransform):
            kind: Literal["shrink"] = "shrink"
            formula: ClassVar[str] = "*G*"

    with pytest.raises(TypeError, match="has no formula; give the class one"):

        class Silent(StepTransform):
            kind: Literal["silent"] = "silent"
