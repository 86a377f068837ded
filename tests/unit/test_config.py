"""Settings: what is refused, how it is told, and what a study's file may say."""

from pathlib import Path

import pytest
from pydantic import ValidationError

from d4s.config import CorpusSettings, FactsSettings
from d4s.errors import MissingDataError, SettingsError
from d4s.settings_base import canonical, validate
from d4s.study_settings import FactsDataset, QuestionsDataset, RecordsModel, Study, WorldModel, data_folder, load_study
from tests.studies import STUDY


def complaints(**changes):
    with pytest.raises(SettingsError) as caught:
        validate(Study, STUDY | changes, "toy.yaml")
    first, *rest = str(caught.value).splitlines()
    assert first == f"toy.yaml has {len(rest)} problem(s):"
    return [line.strip() for line in rest]


def row(**changes):
    return [STUDY["grid"][0] | changes]


def test_a_sound_study_is_taken_with_its_defaults():
    study = validate(Study, STUDY, "toy.yaml")
    assert isinstance(study.models["mini"], WorldModel)
    assert isinstance(study.datasets["world_qa"], FactsDataset)
    assert isinstance(study.datasets["tf"], QuestionsDataset)
    assert study.seeds == (1,)
    assert study.grid[0].benchmark == "none"


@pytest.mark.parametrize(
    ("changes", "place", "hint"),
    [
        ({"sudy": 1}, "sudy", "did you mean 'study'?"),
        ({"grid": row(lengthz=[1])}, "grid.0.lengthz", "did you mean 'lengths'?"),
        ({"world": {"persons": 3, "sead": 1}}, "world.sead", "did you mean 'seed'?"),
        ({"models": {"mini": {"source": "world", "pretrain": {"withd": 3}}}}, "models.mini.world.pretrain.withd", "did you mean 'width'?"),
        ({"datasets": {"a": {"source": "world", "stile": "qa"}}}, "datasets.a.facts.stile", "did you mean 'style'?"),
        (
            {"datasets": {"a": {"source": "questions", "form": "true_false", "events_": "world"}}},
            "datasets.a.questions.events_",
            "'events'",
        ),
    ],
)
def test_an_unknown_key_is_told_with_its_place_and_the_nearest_key(changes, place, hint):
    told = complaints(**changes)
    assert any(line.startswith(f"{place}: unknown key") and hint in line for line in told), told


def test_all_problems_are_told_at_once():
    told = complaints(
        study="no spaces please",
        seeds=[],
        world={"people": "many", "bystanders": 2},
        grid=row(lengths=[0], editors=[]),
        measure={"generate": "perhaps"},
    )
    places = {line.split(": ")[0] for line in told}
    assert places >= {"study", "seeds", "world.people", "world.bystanders", "grid.0.lengths.0", "grid.0.editors", "measure.generate"}


@pytest.mark.parametrize(
    ("changes", "part"),
    [
        ({"grid": row(lengths=[0])}, "greater than 0"),
        ({"grid": row(lengths=[-5, 10])}, "greater than 0"),
        ({"grid": row(lengths=[10, 10])}, "lengths repeats an entry: [10, 10]"),
        ({"grid": row(models=["mini", "mini"])}, "models repeats an entry"),
        ({"grid": []}, "at least 1 item"),
        ({"seeds": [-1]}, "greater than or equal to 0"),
        ({"models": {"mini": {"source": "worldz"}}}, "'world', 'records', 'beliefs', 'hf'"),
        ({"models": {"mini": {"source": "records", "datasets": ["1st"]}}}, "pattern"),
        ({"benchmarks": {"limit": 0}}, "greater than 0"),
        ({"measure": {"sample": 0}}, "greater than 0"),
        ({"figures": {"format": ["gif"]}}, "'pdf', 'svg' or 'png'"),
        ({"datasets": {"tf": {"source": "questions", "form": "essay"}}}, "'true_false', 'multiple_choice' or 'directly_generated'"),
    ],
)
def test_impossible_values_are_refused_with_what_came(changes, part):
    assert any(part in line for line in complaints(**changes))


def test_a_wrong_type_is_told_with_the_value():
    [told] = complaints(world={"seed": "zero"})
    assert told.startswith("world.seed: ")
    assert "found 'zero'" in told


def test_settings_cannot_be_changed_nor_be_infinite():
    settings = FactsSettings(source="world")
    with pytest.raises(ValidationError, match="frozen"):
        settings.seed = 3
    with pytest.raises(SettingsError, match="finite"):
        validate(CorpusSettings, {"answer_weight": float("inf")}, "corpus")


def test_models_taught_records_use_byte_pairs_unless_told_otherwise():
    assert RecordsModel(datasets=("a",)).corpus.tokenizer.kind == "bpe"
    assert WorldModel().corpus.tokenizer.kind == "word"


def test_a_study_is_read_from_yaml(tmp_path):
    path = tmp_path / "toy.yaml"
    path.write_text(
        "study: toy\nmodels: {mini: {source: world}}\ndatasets: {qa: {source: world}}\n"
        "grid:\n  - {models: [mini], datasets: [qa], editors: [memit], lengths: [1]}\n",
        encoding="utf-8",
    )
    assert load_study(path).grid[0].lengths == (1,)


@pytest.mark.parametrize(
    ("content", "part"),
    [("- a\n- b\n", "holds list, expected a mapping"), ("study: [", "cannot be read as YAML"), ("", "holds NoneType")],
)
def test_a_file_that_is_no_study_is_refused_by_name(tmp_path, content, part):
    path = tmp_path / "odd.yaml"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(SettingsError, match=part) as caught:
        load_study(path)
    assert str(path) in str(caught.value)


def test_a_missing_file_is_refused_by_name(tmp_path):
    with pytest.raises(SettingsError, match=r"gone\.yaml cannot be read"):
        load_study(tmp_path / "gone.yaml")


def test_yaml_cannot_run_code(tmp_path):
    path = tmp_path / "evil.yaml"
    path.write_text(f"study: !!python/object/apply:os.mkdir ['{tmp_path / 'made'}']\n", encoding="utf-8")
    with pytest.raises(SettingsError):
        load_study(path)
    assert not (tmp_path / "made").exists()


def test_the_data_folder_comes_from_the_setting_or_the_variable(tmp_path, monkeypatch):
    named, other = tmp_path / "named", tmp_path / "other"
    named.mkdir()
    other.mkdir()
    monkeypatch.setenv("D4S_DATA", str(other))
    assert data_folder(str(named)) == named
    assert data_folder(None) == other
    monkeypatch.delenv("D4S_DATA")
    with pytest.raises(MissingDataError, match="neither `data:` in the settings nor D4S_DATA"):
        data_folder(None)
    with pytest.raises(MissingDataError, match="does not exist"):
        data_folder(str(tmp_path / "gone"))


def test_equal_settings_give_equal_text():
    assert canonical({"b": 1, "a": ["ü", 1.5]}) == canonical({"a": ["ü", 1.5], "b": 1}) == '{"a":["ü",1.5],"b":1}'
    with pytest.raises(ValueError, match="not JSON compliant"):
        canonical(float("nan"))


def test_problems_of_one_data_set_hide_no_others():
    told = complaints(datasets={"a": {"source": "world", "limit": 0}, "b": {"source": "questions"}, "c": 3}, seeds=["x"])
    assert {line.split(": ")[0] for line in told} >= {"datasets.a.facts.limit", "datasets.b.questions.form", "datasets.c.facts", "seeds.0"}


GRIDS = sorted((Path(__file__).parents[2] / "grids").glob("*.yaml"))


@pytest.mark.parametrize("path", [*GRIDS, Path(__file__).parents[2] / "params.yaml"], ids=lambda path: path.stem)
def test_the_studies_that_we_ship_are_sound_and_named_like_their_files(path):
    study = load_study(path)
    assert study.study == ("default" if path.stem == "params" else path.stem.replace(".", "").replace("-", "_"))
    for row in study.grid:
        assert set(row.models) <= set(study.models)
        assert set(row.datasets) <= set(study.datasets)
    for name, model in study.models.items():
        assert set(getattr(model, "datasets", ())) <= set(study.datasets), name
