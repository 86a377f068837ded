from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch

from d4s.editors import locate_then_edit
from d4s.editors.codebook_views import CodebookModel
from d4s.editors.editor_settings import resolve
from d4s.editors.families import FAMILIES, build
from d4s.editors.grace import GraceEditor
from d4s.editors.hparams import merge_hparams
from d4s.editors.locate_then_edit import LocateThenEditEditor
from d4s.editors.presets import PRESETS
from d4s.editors.protocol import NotRemovable
from d4s.editors.states import RecordState
from d4s.testing.editor_conformance import EditorCase, EditorNotConformant, check_editor, differing
from tests.cases import CHANGED, SMALL, case_for, settings_for


@pytest.mark.parametrize("name", [*PRESETS, *CHANGED])
def test_every_named_editor_keeps_the_contract(name: str) -> None:
    case = case_for(settings_for(name))
    check_editor(case)
    settings = settings_for(name)
    finds_no_share = name in {"one_li", "memit_interpolated"}  # nothing is answered on the way
    leaves_weights_alone = settings.is_beside_model or name == "unedited" or finds_no_share
    assert leaves_weights_alone == (not differing(case.weights(case.straight), case.before))


@pytest.mark.parametrize("name", ["memit_seq", "alphaedit", "d4s", "simie", "d4s_refreshed_at_once"])
def test_the_contract_holds_where_solvers_are_refactored(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(locate_then_edit, "REFACTOR_EVERY", 3)
    check_editor(case_for(settings_for(name), count=8))


def changes_of(settings: Any, case: EditorCase, batches: list[slice]) -> dict[int, torch.Tensor]:
    """The changes of weights after some batches of a case's requests."""
    model, editor = case.make_model(), build(settings)
    with editor.editing(model, case.prepared, editor.start(model, case.prepared)) as session:
        for batch in batches:
            session.step(case.requests[batch], case.targets[batch])
        return session.deltas()


@pytest.mark.parametrize("anchor", [None, {"requests": 4}])
def test_a_refresh_gives_the_batch(anchor: dict[str, int] | None) -> None:
    changes = {"preset": "d4s_refreshed", "anchor": anchor} if anchor else {"preset": "d4s_refreshed"}
    settings = resolve("tested", merge_hparams(changes, SMALL, {"keys": {"every": 2}}), "mini")
    case = case_for(settings)
    one_by_one = changes_of(settings, case, [slice(0, 1), slice(1, 2)])
    at_once = changes_of(settings.model_copy(update={"batch": 2}), case, [slice(0, 2)])
    for layer, change in at_once.items():
        assert torch.allclose(one_by_one[layer], change, rtol=1e-6, atol=1e-9) and change.norm() > 0


@pytest.mark.parametrize("family", ["llama", "gptj"])
@pytest.mark.parametrize(
    "name", ["memit_seq", "d4s", "ft_m", "locft_bf", "ultraedit", "mend", "malmen", "grace", "wise", "memoir", "kn", "t_patcher"]
)
def test_the_contract_holds_in_other_layouts(name: str, family: str) -> None:
    check_editor(case_for(settings_for(name), family=family))


@pytest.mark.parametrize("name", ["memit_frozen", "d4s", "pmet", "locft_seq", "stableedit", "rledit", "wise", "defer", "t_patcher"])
def test_the_contract_holds_with_a_norm_after_the_mlp(name: str) -> None:
    check_editor(case_for(settings_for(name), family="olmo2"))


@pytest.mark.parametrize("name", ["d4s", "locft_seq", "wise", "memoir", "t_patcher", "melo"])
def test_the_contract_holds_in_half_precision(name: str) -> None:
    check_editor(case_for(settings_for(name), dtype=torch.bfloat16))


def test_every_family_is_covered() -> None:
    assert {resolve("tested", {"preset": name}, "mini").family for name in PRESETS} == set(FAMILIES)


class Leaky(LocateThenEditEditor):
    """Leaves weights edited, loses a row on restoring, and claims what is not so."""

    @contextmanager
    def editing(self, model, prepared, state) -> Iterator[Any]:
        with super().editing(model, prepared, state) as session:
            yield session
            spoiled = model.weight(0) + 1.0
        model.set_weight(0, spoiled)

    def restore(self, rows, dense):
        return RecordState("refit", tuple(rows)[:-1])


def test_an_editor_that_breaks_the_contract_is_told_how() -> None:
    good = case_for(settings_for("memit"))
    bad = EditorCase(lambda: Leaky(settings_for("memit")), good.make_model, good.prepared, good.requests)
    with pytest.raises(EditorNotConformant) as caught:
        check_editor(bad)
    for part in ("original bits come back: a session leaves", "saving loses", "a resumed run differs", "must add up"):
        assert part in str(caught.value)


def _refuse_all(*_: Any) -> None:
    raise NotRemovable("never")


@pytest.mark.parametrize(
    ("name", "check", "found"),
    [
        ("memit_batches", lambda *_: None, r"requests \[1\] can be removed without the rest of their record"),
        ("ft_l", lambda *_: None, r"requests \[0\] can be removed from a dense state"),
        ("memit", _refuse_all, r"requests \[0\] cannot be removed, though each record is there as a whole: never"),
        ("ft_l", _refuse_all, r"a selection that changes nothing is refused: never"),
    ],
)
def test_an_editor_that_is_wrong_about_what_can_be_removed_is_told_how(
    name: str, check: Callable[..., None], found: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = settings_for(name)
    monkeypatch.setattr(FAMILIES.load(settings.family), "check_removable", check)
    with pytest.raises(EditorNotConformant, match=found):
        check_editor(case_for(settings))


class Intrusive(GraceEditor):
    """Answers with its nearest entry, however far that is, and at the first prompt of a batch only."""

    @contextmanager
    def edited(self, model, prepared, state) -> Iterator[Any]:
        with super().edited(model, prepared, state) as view:
            view.codebook.radii.fill_(torch.inf)
            yield FirstOnly(model, view.layer, view.codebook)


class FirstOnly(CodebookModel):
    def generate(self, prompts, max_new_tokens):
        return super().generate(prompts[:1], max_new_tokens) + [""] * (len(prompts) - 1)


def test_a_memory_that_breaks_the_contract_is_told_how() -> None:
    good = case_for(settings_for("grace"))
    bad = EditorCase(lambda: Intrusive(settings_for("grace")), good.make_model, good.prepared, good.requests)
    with pytest.raises(EditorNotConformant) as caught:
        check_editor(bad)
    for part in ("the empty memory changes", "undoing step 0 leaves or loses answers", "a prompt asked alone changes", "answers otherwise"):
        assert part in str(caught.value)
