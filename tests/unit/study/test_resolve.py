"""A study resolved into artefacts: what enters a hash, what does not, what is shared and what is refused."""

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from d4s.editors.editor_settings import resolve as resolve_editor
from d4s.editors.families import modules_of
from d4s.errors import ArtifactError, MissingDataError, SettingsError
from d4s.study import code_digests, stages
from d4s.study.graph import Node
from d4s.study.overview import overview
from d4s.study.plan import StudyPlan
from d4s.study.prune import prune, unused
from d4s.study.resolve import _NodeBuilder, resolve
from d4s.study.rule_lookups import RuleLookups
from d4s.study_settings import Study

ROOT = Path(__file__).resolve().parents[3]


def _study(**changes: Any) -> dict[str, Any]:
    return yaml.safe_load((ROOT / "params.yaml").read_text()) | changes


def _plan(**changes: Any) -> StudyPlan:
    return resolve(Study.model_validate(_study(**changes)))


def _names(plan: StudyPlan, stage: str) -> set[str]:
    return {node.name for node in plan.of(stage)}


def _row(**changes: Any) -> list[dict[str, Any]]:
    return [{"models": ["mini"], "datasets": ["world_qa"], "editors": ["memit", "d4s"], "lengths": [10, 120]} | changes]


def test_resolving_imports_no_torch() -> None:
    code = "import sys; from d4s.study.resolve import resolve; import d4s.cli; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_lengths_layers_and_blocks_enter_no_hash() -> None:
    short, long = _plan(grid=_row(lengths=[10])), _plan(grid=_row(lengths=[10, 120]))
    for stage in ("edit", "measure", "targets", "moments"):
        assert _names(short, stage) == _names(long, stage)
    assert [node.outputs for node in long.of("targets")] == [("b0.json", "b1.json", "b2.json")]
    assert long.of("moments")[0].outputs == ("l0.json", "l1.json", "l2.json")
    assert long.of("edit")[0].outputs == ("n10.json", "n120.json")


def test_a_warm_up_is_prepared_from_model_and_facts_and_changes_no_other_preparation() -> None:
    plan = _plan(grid=_row(editors=["stableedit", "ultraedit", "alphaedit"]))
    stable, alpha = sorted(plan.of("prepare"), key=lambda node: "moments" in node.inputs)
    assert {*stable.inputs} == {"model", "facts"} and {*stable.settings} == {"basis", "anchor", "warm_up"}
    assert {*alpha.inputs} == {"moments"} and {*alpha.settings} == {"basis", "anchor"}


def test_sentences_are_prepared_from_the_model_and_the_mean_of_prompts_from_facts_too() -> None:
    plan = _plan(grid=_row(editors=["wise", "memoir"]))
    wise, memoir = sorted(plan.of("prepare"), key=lambda node: len(node.inputs))
    assert {*wise.inputs} == {"model"} and {*memoir.inputs} == {"model", "facts"}
    assert {*wise.settings} == {"basis", "anchor", "locality"} and {*memoir.settings} == {"basis", "anchor", "background"}


def test_a_local_models_weights_are_part_of_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("D4S_DATA", str(tmp_path))
    text = tmp_path / "wikitext2_raw_test" / "wikitext2_raw_test.jsonl"
    text.parent.mkdir()
    text.write_text('{"text": "Ada lives in Paris."}\n')
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "model.safetensors").write_bytes(b"one")
    models = {"mini": {"source": "hf", "path": str(tmp_path), "hparams_for": "mini"}}
    row = [{"models": ["mini"], "datasets": ["world_qa"], "editors": ["memit"], "lengths": [10]}]
    before = _plan(models=models, grid=row)
    (tmp_path / "model.safetensors").write_bytes(b"two")
    after = _plan(models=models, grid=row)
    for stage in ("adopt", "moments", "edit", "measure"):
        assert not _names(before, stage) & _names(after, stage)


def test_editors_share_targets_moments_and_contexts() -> None:
    plan = _plan(grid=_row(editors=["d4s", "d4s_even", "one_time_batch", "memit", "rome"]))
    assert len(plan.of("targets")) == len(plan.of("moments")) == 1
    assert len(plan.of("contexts")) == 2  # of the seed, and of the report on the model
    assert len(plan.of("edit")) == 5


def test_a_control_is_measured_on_the_run_of_the_editor_that_it_is_a_control_of() -> None:
    plan = _plan()
    cells = {cell.key.editor: cell for cell in plan.cells if cell.key.dataset == "world_qa"}
    assert cells["memit_scrambled"].run.folder == cells["memit"].run.folder
    assert cells["d4s_inflated"].run.folder == cells["d4s_scrambled"].run.folder == cells["d4s"].run.folder
    assert len({cells[name].measure.folder for name in ("d4s", "d4s_scrambled", "d4s_inflated")}) == 3
    ahead = RuleLookups(plan).ahead(cells["d4s"].run.name)
    assert [node.stage for node in ahead] == [*["measure"] * 3, *["benchmark"] * 3]
    alone = _plan(grid=_row(editors=["memit_scrambled"], lengths=[10]), editors={"memit_scrambled": _study()["editors"]["memit_scrambled"]})
    (run,) = alone.of("edit")
    assert run.label == "mini.world_qa.memit_scrambled.s1" and run.settings["editor"]["delta_transform"] is None


def test_the_report_on_a_model_leaves_controls_out() -> None:
    (report,) = _plan().of("world_report")
    assert {"d4s", "memit", "grace"} <= set(report.settings["editors"])
    assert not {"memit_scrambled", "d4s_scrambled", "d4s_inflated"} & set(report.settings["editors"])


def test_the_taught_model_does_not_depend_on_the_grid() -> None:
    assert _names(_plan(grid=_row()), "pretrain") == _names(_plan(), "pretrain")


def test_each_setting_reaches_exactly_what_it_makes() -> None:
    base = _plan(grid=_row())
    measured = _plan(grid=_row(), measure={"sample": 5})
    assert _names(base, "edit") == _names(measured, "edit")
    assert not _names(base, "measure") & _names(measured, "measure")
    seeded = _plan(grid=_row(), seeds=[2])
    assert _names(base, "pretrain") == _names(seeded, "pretrain")
    assert not _names(base, "targets") & _names(seeded, "targets")
    other = _plan(grid=_row(editors=["memit", "mine"]), editors={"mine": {"preset": "d4s", "residual_schedule": "even"}})
    assert {name for name in _names(base, "edit") if ".memit." in name} == {name for name in _names(other, "edit") if ".memit." in name}


def test_inputs_come_before_what_they_feed() -> None:
    seen: set[Path] = set()
    for node in _plan().nodes:
        assert all(not isinstance(found, Node) or found.folder in seen for found in node.inputs.values())
        seen.add(node.folder)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"grid": _row(editors=["memitt"])}, "did you mean 'memit'?"),
        ({"grid": _row(models=["maxi"], datasets=["world_qq"])}, "did you mean 'world_qa'?"),
        ({"grid": _row(lengths=[10_000])}, "lower the length"),
        ({"editors": {"memit": {"batch": 3}}}, "is a preset"),
        (
            {"grid": _row(editors=["mine"]), "editors": {"mine": {"preset": "d4s", "residual_shedule": "even"}}},
            "did you mean 'residual_schedule'?",
        ),
    ],
)
def test_what_cannot_be_resolved_is_refused_with_the_near_name(changes: dict[str, Any], expected: str) -> None:
    with pytest.raises(SettingsError) as caught:
        _plan(**changes)
    assert expected in str(caught.value)


def test_all_problems_of_a_grid_are_named_at_once() -> None:
    with pytest.raises(SettingsError) as caught:
        _plan(grid=_row(models=["maxi"], datasets=["world_qq"], editors=["memit"]))
    assert "maxi" in str(caught.value) and "world_qq" in str(caught.value)


def test_records_need_a_data_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("D4S_DATA", raising=False)
    with pytest.raises(MissingDataError, match="D4S_DATA"):
        _plan(datasets={"counterfact": {"source": "counterfact"}}, grid=_row(datasets=["counterfact"]))


def test_a_changed_record_is_another_artefact(tmp_path: Path) -> None:
    def facts(text: str) -> set[str]:
        (tmp_path / "counterfact").mkdir(exist_ok=True)
        (tmp_path / "counterfact" / "counterfact.jsonl").write_text(text)
        study = {"datasets": {"counterfact": {"source": "counterfact"}}, "grid": _row(datasets=["counterfact"]), "data": str(tmp_path)}
        return _names(_plan(**study), "facts")

    assert len(facts("one") & facts("two")) == 1  # the world's facts, which the model is taught, stay


def test_trusted_code_is_left_out() -> None:
    assert {node.code for node in _plan(ignore_code_changes=True).nodes} == {"trusted"}


def test_the_overview_counts_what_is_there() -> None:
    lines = list(overview(_plan()))
    assert "cells" in lines[0]
    assert any(line.strip().startswith("edit") for line in lines)


# --- code digests -----------------------------------------------------------------------------------------------------


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "a.py").write_text('"""Doc."""\nfrom d4s.b import f\n\ndef g(x):\n    """Doc."""\n    return f(x)\n')
    (tmp_path / "b.py").write_text("def f(x):\n    return x + 1\n")
    (tmp_path / "c.py").write_text("Z = 1\n")
    monkeypatch.setattr(code_digests, "ROOT", tmp_path)
    return tmp_path


def _digest(*modules: str) -> str:
    for cached in (code_digests.code_digest, code_digests._tree, code_digests._fingerprint, code_digests._imports):
        cached.cache_clear()
    try:
        return code_digests.code_digest(*modules)
    finally:
        code_digests.code_digest.cache_clear()


def test_comments_docstrings_and_layout_change_no_digest(package: Path) -> None:
    before = _digest("d4s.a")
    (package / "a.py").write_text('"""Other."""\nfrom d4s.b import f\n# why\n\n\ndef g(x):\n    """Another."""\n    return f( x )\n')
    assert _digest("d4s.a") == before


def test_code_anywhere_in_the_imports_changes_the_digest_and_other_code_does_not(package: Path) -> None:
    before = _digest("d4s.a")
    (package / "c.py").write_text("Z = 2\n")
    assert _digest("d4s.a") == before
    (package / "b.py").write_text("def f(x):\n    return x + 2\n")
    assert _digest("d4s.a") != before


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The package itself, as a copy that a test may change."""
    shutil.copytree(code_digests.ROOT, tmp_path / "d4s", ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(code_digests, "ROOT", tmp_path / "d4s")
    return tmp_path / "d4s"


EDITING = ("d4s.runs.edit_stage", *modules_of(resolve_editor("rect", {}, "mini")))
LEAST_SQUARES, RECT, TARGETS = (f"editors/{name}.py" for name in ("least_squares_settings", "parts/rect", "parts/target_rule"))
REACHED = {
    "a kind of state": (
        LEAST_SQUARES,
        'return "dense" if any(',
        'return "additive" if any(',
    ),
    "what is read": (LEAST_SQUARES, 'found: set[InputKind] = {"contexts", ', 'found: set[InputKind] = {'),
    "layers of moments": (LEAST_SQUARES, "return self.layers if self.preservation.uses_moments else ()", "return ()"),
    "when a residual is measured": (LEAST_SQUARES, "return self.residual_schedule.is_remeasured or", "return"),
    "mathematics of a part": (RECT, "relative.kthvalue(dropped).values", "relative.kthvalue(dropped + 1).values"),
    "a number of a part": (RECT, "SMALLEST_WEIGHT = 1e-8", "SMALLEST_WEIGHT = 1e-7"),
    "a constant of a part": (RECT, "is_dense: ClassVar[bool] = True", "is_dense: ClassVar[bool] = False"),
    "shared targets": (LEAST_SQUARES, 'return self.target if self.target.at == "original" else None', "return self.target"),
    "a count of layers": ("editors/parts/input_settings.py", "return () if self.basis is None else self.basis.layers", "return ()"),
    "the text of settings": ("settings_base.py", "sort_keys=True", "sort_keys=False"),
    "a look-up": ("registry.py", "return getattr(importlib.import_module(module), attribute)", "return None"),
}  # fmt: skip
BESIDE = {
    "a preset": ("editors/presets.py", 'PRESETS: Mapping[str, Preset] = {', 'PRESETS: Mapping[str, Preset] = {\n    "other": None,'),
    "a column": ("editors/hparams.py", 'IDENTITY: HParams = {', 'OTHER: HParams = {}\nIDENTITY: Settings = {'),
    "a family": ("editors/families.py", '"editor family",\n    {', '"editor family",\n    {"other": "d4s.editors.other:Other",'),
    "a setting": (RECT, "    feedback: bool =", "    other: int = 1\n    feedback: bool ="),
    "a default": (TARGETS, "steps: Count = Field(default=25", "steps: Count = Field(default=26"),
    "another part": ("editors/parts/sphere.py", "cumulative < energy", "cumulative <= energy"),
    "a formula": (RECT, 'formula: ClassVar[str] = "entries', 'formula: ClassVar[str] = "Entries'),
    "memory of a part": (RECT, "return DOUBLE * shape.mlp_out", "return 2 * DOUBLE * shape.mlp_out"),
    "a table of results": ("schemas.py", "EDIT_LOG = _schema(", "OTHER = _schema(step=_int)\nEDIT_LOG = _schema("),
    "words of an error": ("errors.py", "defects in the records", "defects"),
}  # fmt: skip


@pytest.mark.parametrize("change", [*REACHED, *BESIDE])
def test_what_settings_do_changes_the_digest_of_an_edit_and_what_tables_list_does_not(checkout: Path, change: str) -> None:
    before = _digest(*EDITING)
    name, old, new = (REACHED | BESIDE)[change]
    text = (checkout / name).read_text()
    assert text.count(old) == 1
    (checkout / name).write_text(text.replace(old, new))
    assert (_digest(*EDITING) != before) is (change in REACHED)


def test_a_run_is_covered_by_the_parts_that_its_editor_has() -> None:
    assert modules_of(resolve_editor("simie", {}, "mini")) == (
        "d4s.editors.locate_then_edit",
        *(f"d4s.editors.parts.{name}" for name in ("residual_schedules", "preservations", "histories", "simie")),
    )
    assert modules_of(resolve_editor("grace", {}, "mini")) == ("d4s.editors.grace",)


def test_nodes_of_two_verbs_are_never_taken_for_each_other(monkeypatch: pytest.MonkeyPatch) -> None:
    """Label, settings, inputs and trusted code are the same."""
    monkeypatch.setitem(stages.STAGES, "other", stages.STAGES["objectives"])
    monkeypatch.setitem(stages.SETTINGS._entries, "other", stages.SETTINGS["objectives"])
    resolver = _NodeBuilder(Study.model_validate(_study(ignore_code_changes=True)))
    assert [resolver._node(stage, "mini", {}, {}).stage for stage in ("objectives", "other", "objectives")] == [
        "objectives",
        "other",
        "objectives",
    ]


# --- prune ------------------------------------------------------------------------------------------------------------


def test_prune_lists_first_and_removes_only_what_no_study_names(tmp_path: Path) -> None:
    for name in ("runs/kept-1", "runs/stale-2"):
        (tmp_path / "results/store" / name).mkdir(parents=True)
        (tmp_path / "results/store" / name / "x").write_text("x")
    (tmp_path / "results/one").mkdir()
    (tmp_path / "results/one/store.json").write_text('["results/store/runs/kept-1"]')
    assert [path.name for path in unused([], tmp_path)] == ["stale-2"]
    assert "could be removed" in list(prune([], remove=False, root=tmp_path))[-1]
    assert (tmp_path / "results/store/runs/stale-2").exists()
    list(prune([], remove=True, root=tmp_path))
    assert [path.name for path in (tmp_path / "results/store/runs").iterdir()] == ["kept-1"]


def test_prune_keeps_what_an_unfinished_study_has_made_and_waits_for_a_running_one(tmp_path: Path) -> None:
    plan = _plan()
    begun = tmp_path / plan.of("pretrain")[0].folder
    for folder in (begun, tmp_path / "results/store/runs/stale-2", tmp_path / "results/one", tmp_path / ".snakemake/locks"):
        folder.mkdir(parents=True)
    (tmp_path / "results/one/store.json").write_text("[]")
    assert [path.name for path in unused([plan], tmp_path)] == ["stale-2"]
    (tmp_path / ".snakemake/locks/0.input.lock").write_text("")
    with pytest.raises(ArtifactError, match="is running"):
        unused([plan], tmp_path)


# --- what is refused --------------------------------------------------------------------------------------------------


def test_everything_wrong_is_named_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("D4S_DATA", str(tmp_path))
    datasets = _study()["datasets"] | {
        "wrong": {"source": "world", "style": "aq"},
        "mquake": {"source": "mquake_hard"},
        "ripple": {"source": "rippleedits", "limit": 3},
    }
    models = _study()["models"] | {"pupil": {"source": "records", "datasets": ["gone"]}}
    replay = {"writer": "replay", "store": str(tmp_path / "answers.jsonl")}
    editors = {
        "batches": {"preset": "memit", "batch": 7},
        "deep": {"preset": "memit", "layers": [0, 1, 9], "target": {"layer": 9}},
        "idle": {"preset": "d4sx"},
    }
    grid = [
        {"models": ["mini"], "datasets": ["world_qa", "wrong"], "editors": ["batches", "deep", "memitt"], "lengths": [10, 14]},
        {"models": ["mini"], "datasets": ["mquake", "ripple"], "editors": ["memit"], "lengths": [10]},
    ]
    with pytest.raises(SettingsError) as refused:
        _plan(study="store", datasets=datasets, editors=editors, grid=grid, models=models, questions=replay)
    for said in (
        "study: 'store'",
        "[10] do not end with a batch of 'batches'; make them multiples of 7",
        "'deep' edits layers [9], but 'mini' has layers 0 to 5",
        "'memitt'",
        "editors.idle",
        "'d4sx'",
        "datasets.wrong",
        "did you mean 'qa'",
        "models.pupil.datasets: unknown name 'gone'",
        "answers.jsonl does not exist",
        "mquake_hard.jsonl does not exist",
        "rippleedits/labels.jsonl does not exist",
    ):
        assert said in str(refused.value), said
    assert "facts to edit" not in str(refused.value)


@pytest.mark.parametrize(
    ("dataset", "most"),
    [
        ({"source": "world", "style": "qa"}, 24),
        ({"source": "questions", "events": "world", "form": "true_false"}, 18),
        ({"source": "questions", "form": "true_false", "limit": 10}, 7),
    ],
)
def test_as_many_edits_as_there_are_facts_are_allowed(dataset: dict[str, Any], most: int) -> None:
    world, datasets = {"seed": 0, "people": 7, "events": 7}, {"all": dataset}
    assert _plan(world=world, datasets=datasets, grid=_row(datasets=["all"], lengths=[most])).cells
    with pytest.raises(SettingsError, match=f"at most {most} facts"):
        _plan(world=world, datasets=datasets, grid=_row(datasets=["all"], lengths=[most + 1]))


def test_settings_of_a_model_of_another_shape_are_refused_once_before_anything_runs() -> None:
    file = "grids/settings/smollm2-135m.yaml"
    other = {"mini": {"source": "world", "model_seed": 0, "hparams_for": file}}
    rows = [*_row(), *_row(lengths=[20])]
    with pytest.raises(SettingsError) as caught:
        _plan(models=other, grid=rows)
    assert str(caught.value).count(f"{file} was made for a llama of 30 layers") == 1
    assert "and the model is a gpt2 of 6 layers, widths 192 and 1024" in str(caught.value)
    mine = {"mine": {"preset": "memit", "hparams_for": file}}
    with pytest.raises(SettingsError, match="was made for a llama"):
        _plan(editors=mine, grid=_row(editors=["mine"]))
