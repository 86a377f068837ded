"""Undo, replace, merge and export: equal to fresh runs where the state allows it, refused with the reason where not."""

import errno
import json
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from d4s.apply import show
from d4s.apply.ask import ask
from d4s.apply.change import merge, replace, undo
from d4s.apply.edited_folder import DELTA, MODEL, EditedFolder
from d4s.apply.export import export, lora_factors, numerical_rank
from d4s.apply.history import Conflict
from d4s.errors import SettingsError
from d4s.models.loading import load
from d4s.models.tokens import encode
from d4s.models.views import LiveModel
from tests.applying import CHANGES, FACTS, FROZEN, SMALL, applied, delta_of, fact_file, gap, saved_model, stopped_after

ROUNDING = 1e-3  # targets are optimised in other blocks
WIDE = CHANGES["grace"] | {"eps_init": 1e4}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return saved_model(tmp_path_factory.mktemp("base") / "gpt2")


def edited(model: Path, folder: Path, numbers: list[int], editor: str = "d4s", **overrides) -> Path:
    """A folder with some of the facts; d4s with frozen keys, so that no edit sees another."""
    if editor == "d4s":
        overrides = {"overrides": FROZEN, **overrides}
    targets = overrides.pop("targets", {})
    folder.mkdir(parents=True)
    applied(model, fact_file(folder / "facts.csv", [FACTS[number] for number in numbers], **targets), folder / "out", editor, **overrides)
    return folder / "out"


# --- undo and replace -------------------------------------------------------------------------------------------------


def test_undo_of_refitted_edits_is_a_run_without_them(model: Path, tmp_path: Path) -> None:
    path = edited(model, tmp_path / "all", [0, 1, 2, 3])
    before = delta_of(path)
    undo(path, [2, 4], "cpu")
    fresh = delta_of(edited(model, tmp_path / "fresh", [0, 2]))
    assert gap(delta_of(path), fresh) < ROUNDING < 0.05 < gap(before, fresh)
    written = load_file(path / DELTA)["transformer.h.0.mlp.c_proj.weight"].mT
    assert torch.allclose(written, delta_of(path)["0"], atol=1e-7)
    assert [edit.inactive_reason for edit in EditedFolder.open(path).edits()] == ["", "undone", "", "undone"]
    undo(path, [2], "cpu")  # once more changes nothing
    with pytest.raises(SettingsError, match=r"undo: .* has no present edits \[9\]"):
        undo(path, [9], "cpu")


def test_an_undone_edit_can_be_made_again(model: Path, tmp_path: Path) -> None:
    path = edited(model, tmp_path / "all", [0, 1])
    before = delta_of(path)
    undo(path, [1], "cpu")
    folder, _ = applied(model, path.parent / "facts.csv", path, overrides=FROZEN)
    assert [(edit.number, edit.inactive_reason) for edit in folder.edits()] == [(1, "undone"), (2, ""), (3, "")]
    assert gap(delta_of(path), before) < ROUNDING


@pytest.mark.parametrize("editor", ["memit", "rome"])
def test_undo_of_an_additive_edit_takes_its_own_change_out(model: Path, tmp_path: Path, editor: str) -> None:
    path = edited(model, tmp_path / "all", [0, 1, 2], editor)
    before, row = delta_of(path), EditedFolder.open(path).state().records[1]
    undo(path, [2], "cpu")
    for layer, change in delta_of(path).items():
        own = (row[f"{layer}.left"].mT @ row[f"{layer}.right"]).float()
        assert float(own.norm()) > 1e-3 and torch.allclose(before[layer] - own, change, atol=1e-5)


def test_undo_of_a_memory_takes_its_entry_out(model: Path, tmp_path: Path) -> None:
    path = edited(model, tmp_path / "all", [0, 1], "grace")
    prompts = [FACTS[0].prompt, FACTS[1].prompt]
    assert [answer.split()[0] for answer in ask(path, prompts, 1, "cpu")] == [FACTS[0].target_new, FACTS[1].target_new]
    undo(path, [1], "cpu")
    answers = ask(path, prompts, 1, "cpu")
    assert answers[0] != FACTS[0].target_new and answers[1] == FACTS[1].target_new


def sharing(model: Path, folder: Path, numbers: Sequence[int] = (0, 1)) -> Path:
    """Facts with one target, which with this radius share an entry of the codebook."""
    targets = {f"n{place}": "Oslo" for place in range(len(numbers))}
    return edited(model, folder, [*numbers], "grace", overrides=WIDE, targets=targets)


def entries_of(path: Path) -> list[dict[str, torch.Tensor]]:
    return [dict(row) for row in EditedFolder.open(path).state().records]


def equal(one: Sequence[dict[str, torch.Tensor]], other: Sequence[dict[str, torch.Tensor]]) -> bool:
    return len(one) == len(other) and all(
        mine.keys() == theirs.keys() and all(torch.equal(mine[name], theirs[name]) for name in mine)
        for mine, theirs in zip(one, other, strict=True)
    )


def test_edits_that_share_an_entry_are_taken_out_with_all_that_continued_it(model: Path, tmp_path: Path) -> None:
    path = sharing(model, tmp_path / "all", (0, 1, 3))
    before = entries_of(path)
    assert len({row["key"].numpy().tobytes() for row in before}) == 1
    for call in (lambda: undo(path, [1], "cpu"), lambda: undo(path, [1, 3], "cpu"), lambda: replace(path, 1, "Lima", "cpu")):
        with pytest.raises(SettingsError, match=r"edits \[1, 2, 3\] share an entry, .* can only be taken out together"):
            call()
    with pytest.raises(SettingsError, match=r"undo: edits \[2, 3\] share an entry"):
        undo(path, [2], "cpu")
    undo(path, [3], "cpu")  # the last one gives back the entry as it was
    assert equal(entries_of(path), before[:2])
    undo(path, [1, 2], "cpu")
    assert entries_of(path) == []
    prompts = [FACTS[number].prompt for number in (0, 1, 3)]
    with EditedFolder.open(path).edited() as view:
        assert view.generate(prompts, 1) == LiveModel(load(model)).generate(prompts, 1)


def test_all_edits_of_an_entry_can_be_replaced_at_once_and_come_back_together(model: Path, tmp_path: Path) -> None:
    path = sharing(model, tmp_path / "all")
    before = entries_of(path)
    again = fact_file(tmp_path / "again.csv", FACTS[:2], n0="Lima", n1="Quito")
    folder, _ = applied(model, again, path, "grace", overrides=WIDE, on_conflict="replace")
    assert [edit.inactive_reason for edit in folder.edits()] == ["replaced by 3", "replaced by 4", "", ""]
    with pytest.raises(SettingsError, match=r"undo: edit 2 would come back with an entry that also holds edits \[1\], which are gone"):
        undo(path, [4], "cpu")
    undo(path, [3, 4], "cpu")
    assert [edit.inactive_reason for edit in EditedFolder.open(path).edits()] == ["", "", "undone", "undone"]
    assert equal(entries_of(path), before)


def test_an_entry_that_was_made_anew_comes_back_by_itself(model: Path, tmp_path: Path) -> None:
    path = sharing(model, tmp_path / "all")
    undo(path, [1, 2], "cpu")
    applied(model, tmp_path / "all" / "facts.csv", path, "grace", overrides=WIDE)  # 3 and 4 are 1 and 2 again, in the same place
    replace(path, 4, "Lima", "cpu")
    undo(path, [5], "cpu")
    assert [edit.number for edit in EditedFolder.open(path).active_edits()] == [3, 4]


def test_a_merge_keeps_entries_whole(model: Path, tmp_path: Path) -> None:
    shared, one = sharing(model, tmp_path / "shared"), sharing(model, tmp_path / "one", (0,))
    merge(one, shared, tmp_path / "both", prefer_second=False, device="cpu")
    assert [edit.number for edit in EditedFolder.open(tmp_path / "both").active_edits()] == [1, 2]
    with pytest.raises(SettingsError, match=r"undo: edits \[1, 2\] share an entry"):
        undo(tmp_path / "both", [1], "cpu")
    other = edited(model, tmp_path / "other", [0], "grace", overrides=WIDE, targets={"n0": "Lima"})
    with pytest.raises(SettingsError, match=r"merge: edits \[1, 2\] share an entry"):
        merge(shared, other, tmp_path / "more", prefer_second=True, device="cpu")
    elsewhere = sharing(model, tmp_path / "elsewhere", (3, 0))
    with pytest.raises(SettingsError, match=r"merge: edits \[1, 2\] share an entry"):
        merge(elsewhere, shared, tmp_path / "more", prefer_second=False, device="cpu")


@pytest.mark.parametrize("change", ["undo", "replace"])
def test_an_interrupted_change_is_finished_by_the_same_command(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], change: str
) -> None:
    path = edited(model, tmp_path / "all", [0, 1])
    call = (lambda: undo(path, [1], "cpu")) if change == "undo" else (lambda: replace(path, 1, "Oslo", "cpu"))

    def stop(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("d4s.apply.change.refresh" if change == "undo" else "d4s.apply.apply_pipeline.refresh", stop)
        call()
    show.history(EditedFolder.open(path))
    assert "run the same command again (d4s apply, undo or replace)" in " ".join(capsys.readouterr().out.split())
    there = [(edit.number, edit.inactive_reason) for edit in EditedFolder.open(path).edits()]
    call()
    assert EditedFolder.open(path).is_written and [(edit.number, edit.inactive_reason) for edit in EditedFolder.open(path).edits()] == there
    show.history(EditedFolder.open(path))
    assert "was interrupted" not in capsys.readouterr().out


@pytest.mark.parametrize("editor", ["d4s", "memit", "grace", "memoir"])
def test_replace_puts_another_target_in_place(model: Path, tmp_path: Path, editor: str) -> None:
    path = edited(model, tmp_path / "all", [0, 1, 2], editor)
    found = replace(path, 2, "Oslo", "cpu")
    assert [(one.edit.number, one.edit.spec.target) for one in found.recent] == [(4, "Oslo")]
    assert [edit.inactive_reason for edit in EditedFolder.open(path).edits()] == ["", "replaced by 4", "", ""]
    if editor == "d4s":
        fresh = edited(model, tmp_path / "fresh", [0, 2, 1], targets={"n2": "Oslo"})
        assert gap(delta_of(path), delta_of(fresh)) < ROUNDING
    with pytest.raises(SettingsError, match="has the target 'Oslo' already"):
        replace(path, 4, "Oslo", "cpu")
    with pytest.raises(SettingsError, match="words that the tokenizer knows"):
        replace(path, 4, "Atlantis", "cpu")


@pytest.mark.parametrize("editor", ["d4s", "memit", "rome"])
def test_undo_of_a_replacement_brings_the_edit_before_back(model: Path, tmp_path: Path, editor: str) -> None:
    path = edited(model, tmp_path / "all", [0, 1, 2], editor)
    before, written = delta_of(path), load_file(path / DELTA)
    replace(path, 2, "Oslo", "cpu")
    replace(path, 4, "Cairo", "cpu")
    assert [edit.inactive_reason for edit in EditedFolder.open(path).edits()] == ["", "replaced by 4", "", "replaced by 5", ""]
    undo(path, [5], "cpu")
    assert [edit.inactive_reason for edit in EditedFolder.open(path).edits()] == ["", "replaced by 4", "", "", "undone"]
    undo(path, [4], "cpu")
    assert [edit.inactive_reason for edit in EditedFolder.open(path).edits()] == ["", "", "", "undone", "undone"]
    assert all(torch.equal(delta_of(path)[layer], change) for layer, change in before.items())
    assert all(torch.equal(load_file(path / DELTA)[name], change) for name, change in written.items())
    undo(path, [2], "cpu")
    assert [edit.number for edit in EditedFolder.open(path).active_edits()] == [1, 3]


def test_undo_of_a_replaced_memory_answers_as_before(model: Path, tmp_path: Path) -> None:
    path = edited(model, tmp_path / "all", [0, 1], "grace")
    prompts = [FACTS[0].prompt, FACTS[1].prompt]
    with EditedFolder.open(path).edited() as view:
        before = view.score(prompts, [FACTS[0].target_new, FACTS[1].target_new]).nll
    replace(path, 1, "Oslo", "cpu")
    assert ask(path, prompts[:1], 1, "cpu") == ["Oslo"]
    undo(path, [3], "cpu")
    with EditedFolder.open(path).edited() as view:
        assert torch.equal(view.score(prompts, [FACTS[0].target_new, FACTS[1].target_new]).nll, before)


def test_undo_of_a_mean_brings_the_edit_before_back(model: Path, tmp_path: Path) -> None:
    path = edited(model, tmp_path / "all", [0, 1])
    before = delta_of(path)
    again = fact_file(tmp_path / "again.csv", FACTS[:1], n0="Oslo")
    applied(model, again, path, overrides=FROZEN, on_conflict="average")
    undo(path, [3], "cpu")
    assert [edit.inactive_reason for edit in EditedFolder.open(path).edits()] == ["", "", "undone"]
    assert all(torch.equal(delta_of(path)[layer], change) for layer, change in before.items())


def test_a_dense_state_refuses_with_the_reason(model: Path, tmp_path: Path) -> None:
    one, other = (edited(model, tmp_path / name, numbers, "ft_l") for name, numbers in {"one": [0], "other": [1]}.items())
    for call in (lambda: undo(one, [1], "cpu"), lambda: replace(one, 1, "Oslo", "cpu")):
        with pytest.raises(SettingsError, match="is not possible with ft_l: every step replaced its state as a whole"):
            call()
    with pytest.raises(SettingsError, match="merge is not possible with ft_l: each folder holds one change of weights"):
        merge(one, other, tmp_path / "both", prefer_second=False, device="cpu")


def test_a_batch_is_taken_out_as_one(model: Path, tmp_path: Path) -> None:
    path = edited(model, tmp_path / "all", [0, 1, 2], overrides=FROZEN | {"batch": 2})
    with pytest.raises(SettingsError, match=r"edits \[1, 2\] were made as one batch"):
        undo(path, [1], "cpu")
    undo(path, [1, 2], "cpu")
    assert gap(delta_of(path), delta_of(edited(model, tmp_path / "fresh", [2]))) < ROUNDING


def test_a_replaced_batch_comes_back_as_one(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pairs = {"overrides": FROZEN | {"batch": 2}}
    path = edited(model, tmp_path / "all", [0, 1], **pairs)
    before = delta_of(path)
    again = fact_file(tmp_path / "again.csv", [FACTS[2], FACTS[0], FACTS[1], FACTS[3]], n1="Oslo", n2="Quito")

    with stopped_after(4, monkeypatch):
        applied(model, again, path, on_conflict="replace", **pairs)
    folder, _ = applied(model, again, path, on_conflict="replace", **pairs)
    assert [edit.inactive_reason for edit in folder.edits()] == ["replaced by 4", "replaced by 5", "", "", "", ""]
    with pytest.raises(SettingsError, match=r"undo: edits \[1, 2\] were made as one batch and can only come back together"):
        undo(path, [3, 4], "cpu")
    undo(path, [3, 4, 5, 6], "cpu")
    assert [edit.number for edit in EditedFolder.open(path).active_edits()] == [1, 2]
    assert all(torch.equal(delta_of(path)[layer], change) for layer, change in before.items())


# --- merge ------------------------------------------------------------------------------------------------------------


def test_a_merge_of_refitted_edits_is_a_run_of_both(model: Path, tmp_path: Path) -> None:
    one, other = edited(model, tmp_path / "one", [0, 1, 4]), edited(model, tmp_path / "other", [1, 2, 3])
    undo(one, [3], "cpu")
    merge(one, other, tmp_path / "both", prefer_second=False, device="cpu")
    fresh = delta_of(edited(model, tmp_path / "fresh", [0, 1, 2, 3]))
    assert gap(delta_of(tmp_path / "both"), fresh) < ROUNDING
    assert (tmp_path / "both" / MODEL).is_dir() and len(EditedFolder.open(tmp_path / "both").active_edits()) == 4
    folder, _ = applied(model, fact_file(tmp_path / "more.csv", FACTS[4:5]), tmp_path / "both", overrides=FROZEN)
    assert len(folder.active_edits()) == 5
    with pytest.raises(SettingsError, match="is there already"):
        merge(one, other, tmp_path / "both", prefer_second=False, device="cpu")


def test_a_merge_names_conflicts_or_prefers_the_second(model: Path, tmp_path: Path) -> None:
    one, other = edited(model, tmp_path / "one", [0, 1]), edited(model, tmp_path / "other", [1, 2], targets={"n0": "Oslo"})
    with pytest.raises(Conflict, match=rf"is '{FACTS[1].target_new}' in .* \(edit 2\), 'Oslo' in .* \(edit 1\)"):
        merge(one, other, tmp_path / "both", prefer_second=False, device="cpu")
    merge(one, other, tmp_path / "both", prefer_second=True, device="cpu")
    assert [edit.spec.target for edit in EditedFolder.open(tmp_path / "both").active_edits()] == [
        FACTS[0].target_new,
        "Oslo",
        FACTS[2].target_new,
    ]


def test_folders_made_otherwise_are_not_merged(model: Path, tmp_path: Path) -> None:
    one, other = edited(model, tmp_path / "one", [0], "rome"), edited(model, tmp_path / "other", [1], "rome", seed=2)
    with pytest.raises(SettingsError, match="made otherwise and cannot be merged") as told:
        merge(one, other, tmp_path / "both", prefer_second=False, device="cpu")
    assert "seed: 1 there, 2 now" in str(told.value)


# --- export -----------------------------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")  # peft asks transformers for it
@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_a_lora_adapter_gives_the_edited_models_logits_in_peft(tmp_path: Path, family: str) -> None:
    peft = pytest.importorskip("peft")
    base = saved_model(tmp_path / "base", family)
    path = edited(base, tmp_path / "all", [0, 1, 2])
    errors = export(path, "lora", tmp_path / "lora", None, "cpu")
    assert len(errors) == 2 and max(errors.values()) < 1e-5
    assert load_file(tmp_path / "lora" / "adapter_model.safetensors").popitem()[1].shape.count(3) == 1  # rank 3 for 3 edits
    adapted = peft.PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), tmp_path / "lora")
    written = load(path / MODEL)
    ids = torch.tensor([encode(written, fact.prompt) for fact in FACTS[:3]])
    with torch.no_grad():
        found, expected, plain = (net(input_ids=ids).logits for net in (adapted, written.network, load(base).network))
    assert torch.allclose(found, expected, atol=1e-4) and not torch.allclose(plain, expected, atol=1e-2)


def test_a_lower_rank_states_what_it_leaves_out(model: Path, tmp_path: Path) -> None:
    path = edited(model, tmp_path / "all", [0, 1, 2])
    errors = export(path, "lora", tmp_path / "lora", 1, "cpu")
    values = torch.linalg.svdvals(delta_of(path)["0"].double())
    assert errors["transformer.h.0.mlp.c_proj"] == pytest.approx(float(values[1:].norm() / values.norm()), rel=1e-5)
    (right, left), error = lora_factors(torch.zeros(4, 6), 2)
    assert (right.shape, left.shape, error) == ((2, 6), (4, 2), 0.0)


@pytest.mark.parametrize(
    ("editor", "overrides"),
    [("nse", SMALL | {"rounds": {"most": 3, "above": 1e-4, "below": 1e9}}), ("d4s", SMALL | {"delta_transform": {"kind": "scramble"}})],
)
def test_edits_of_a_higher_rank_are_exported_whole(model: Path, tmp_path: Path, editor: str, overrides: dict) -> None:
    path = edited(model, tmp_path / "all", [0, 1, 2], editor, overrides=overrides)
    errors = export(path, "lora", tmp_path / "lora", None, "cpu")
    assert len(errors) == 2 and max(errors.values()) < 1e-5
    assert json.loads((tmp_path / "lora" / "adapter_config.json").read_text(encoding="utf-8"))["r"] > 3


def test_a_rank_is_counted_above_what_is_rounded() -> None:
    generator = torch.Generator().manual_seed(0)
    left, right, weight = (torch.randn(shape, generator=generator, dtype=torch.float64) for shape in ((48, 5), (5, 96), (48, 96)))
    for size in (1.0, 1e-3):
        edited = (weight.float().double() + size * left @ right).float()
        change = edited - weight.float()
        assert int(torch.linalg.matrix_rank(change.double())) == 48  # rounding has every rank
        assert numerical_rank(change, edited) == 5
    assert numerical_rank(torch.zeros(4, 6), torch.ones(4, 6)) == 0


def test_a_low_rank_survives_bfloat16(tmp_path: Path) -> None:
    base = saved_model(tmp_path / "base", dtype=torch.bfloat16)
    assert max(export(edited(base, tmp_path / "all", [0, 1]), "lora", tmp_path / "lora", None, "cpu").values()) < 1e-5


def test_whole_models_and_changes_are_those_of_the_folder(model: Path, tmp_path: Path) -> None:
    path = edited(model, tmp_path / "all", [0, 1], "ft_l")
    export(path, "full", tmp_path / "full", None, "cpu")
    export(path, "delta", tmp_path / "delta", None, "cpu")
    for name, tensor in load(path / MODEL).network.named_parameters():
        assert torch.equal(tensor, load(tmp_path / "full").network.get_parameter(name))
    for name, tensor in load_file(path / DELTA).items():
        assert torch.equal(tensor, load_file(tmp_path / "delta" / "delta.safetensors")[name])
    assert max(export(path, "lora", tmp_path / "lora", None, "cpu").values()) < 1e-6  # a dense change needs every rank
    with pytest.raises(SettingsError, match="--rank is about --format lora only"):
        export(path, "full", tmp_path / "other", 2, "cpu")
    with pytest.raises(SettingsError, match="is there already"):
        export(path, "full", tmp_path / "full", None, "cpu")


@pytest.mark.parametrize(("kind", "last"), [("full", "write_model"), ("lora", "write_json"), ("delta", "write_json")])
def test_an_export_that_failed_can_be_repeated(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind, last: str) -> None:
    path = edited(model, tmp_path / "all", [0], "rome")

    def full(where: Path, *_: object) -> None:
        where.mkdir() if last == "write_model" else None
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch, pytest.raises(OSError, match="No space left"):
        patch.setattr(f"d4s.apply.export.{last}", full)
        export(path, kind, tmp_path / "out", None, "cpu")
    assert not (tmp_path / "out").exists()
    export(path, kind, tmp_path / "out", None, "cpu")
    assert sorted(one.name for one in tmp_path.iterdir()) == ["all", "out"] and any((tmp_path / "out").glob("*.safetensors"))


@pytest.mark.parametrize("kind", ["full", "lora", "delta"])
def test_memories_are_not_exported(model: Path, tmp_path: Path, kind) -> None:
    path = edited(model, tmp_path / "all", [0], "grace")
    with pytest.raises(SettingsError, match=f"grace changes no weights: .* nothing can be exported as {kind}"):
        export(path, kind, tmp_path / "out", None, "cpu")
