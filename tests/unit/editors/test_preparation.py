from pathlib import Path

import pytest
import torch

from d4s.artifacts import Artifact, StageJob, write_json, write_tensors
from d4s.config import ContextsSettings, MomentsSettings
from d4s.editors.editor_settings import resolve
from d4s.editors.parts.input_settings import BasisSettings, PrepareSettings, WarmUpSettings
from d4s.editors.preparation import free_directions, prepare, prepare_tensors
from d4s.errors import ArtifactError, SettingsError
from d4s.runs.prepared_parts import load_prepared
from tests.oracle.plain import requests_of


def moment_with(values: list[float], seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    basis = torch.linalg.qr(torch.randn(len(values), len(values), generator=generator, dtype=torch.float64))[0]
    return basis @ torch.diag(torch.tensor(values, dtype=torch.float64)) @ basis.mT, basis


def test_free_directions_are_those_that_text_hardly_uses() -> None:
    moment, basis = moment_with([0.001, 5.0, 0.01, 2.0, 0.03])
    free = free_directions(moment, 0.02)
    assert free.shape == (5, 2)
    torch.testing.assert_close(free.mT @ free, torch.eye(2, dtype=torch.float64))
    expected = basis[:, [0, 2]] @ basis[:, [0, 2]].mT
    torch.testing.assert_close(free @ free.mT, expected)


def test_a_threshold_below_every_eigenvalue_is_refused() -> None:
    with pytest.raises(SettingsError, match=r"below 0\.0005; they begin at 0\.001: raise `threshold`"):
        free_directions(moment_with([0.001, 1.0])[0], 0.0005)


def moments_at(folder: Path, layers: tuple[int, ...]) -> Path:
    for layer in layers:
        moment, _ = moment_with([0.001, 5.0, 0.01, 2.0, 0.03], seed=layer)
        write_tensors(folder / f"l{layer}.safetensors", {"sum_kk": 7 * moment, "n_tokens": torch.tensor(7)})
        StageJob("moments", MomentsSettings(), {}, folder).write_manifest([f"l{layer}.safetensors"], f"l{layer}.json", source="text")
    return folder


def test_the_verb_writes_a_basis_per_layer(tmp_path: Path) -> None:
    settings = PrepareSettings(basis=BasisSettings(layers=(1, 3), threshold=0.02))
    prepare(StageJob("prepared", settings, {"moments": moments_at(tmp_path / "m", (1, 3))}, tmp_path / "p"))
    artifact = Artifact.open(tmp_path / "p", "prepared")
    assert artifact.manifest.notes["free"] == {"1": [2, 5], "3": [2, 5]}
    for layer in (1, 3):
        expected = free_directions(moment_with([0.001, 5.0, 0.01, 2.0, 0.03], seed=layer)[0], 0.02)
        torch.testing.assert_close(artifact.tensors("prepared.safetensors")[f"{layer}.basis"].abs(), expected.abs())


def contexts_at(folder: Path) -> Path:
    write_json(folder / "contexts.json", {"contexts": ["So.", "Then."]})
    StageJob("contexts", ContextsSettings(), {}, folder).write_manifest(["contexts.json"])
    return folder


def test_editors_get_what_they_need_and_no_more(tmp_path: Path) -> None:
    settings = resolve("tested", {"preset": "alphaedit", "layers": [1, 3], "target": {"layer": 3}}, "mini")
    moments = moments_at(tmp_path / "m", (1, 3))
    prepare(StageJob("prepared", PrepareSettings(basis=BasisSettings(layers=(1, 3), threshold=0.02)), {"moments": moments}, tmp_path / "p"))
    inputs = {"contexts": contexts_at(tmp_path / "c"), "moments": moments, "prepared": tmp_path / "p"}
    found = load_prepared({role: path for role, path in inputs.items() if role != "moments"}, settings)
    assert (found.contexts, set(found.moments), set(found.extras)) == (("So.", "Then."), set(), {"1.basis", "3.basis"})
    solving = load_prepared(inputs, resolve("tested", {"preset": "memit", "layers": [1, 3], "target": {"layer": 3}}, "mini"))
    assert set(solving.moments) == {1, 3} and solving.moments[1].n_tokens == 7 and not solving.extras
    nothing = load_prepared(inputs, resolve("unedited", {}, "mini"))
    assert (nothing.contexts, dict(nothing.moments), dict(nothing.extras)) == ((), {}, {})


def test_missing_inputs_are_named_together() -> None:
    with pytest.raises(SettingsError, match=r"needs the inputs \['contexts', 'prepared'\]; given: \['model'\]"):
        load_prepared({"model": Path("m")}, resolve("alphaedit", {}, "mini"))


def test_moments_of_other_layers_are_refused_by_name(tmp_path: Path) -> None:
    settings = resolve("tested", {"preset": "memit", "layers": [1, 2]}, "mini")
    with pytest.raises(ArtifactError, match=r"holds no l2\.json"):
        load_prepared({"contexts": contexts_at(tmp_path / "c"), "moments": moments_at(tmp_path / "m", (1,))}, settings)


def test_statistics_are_taken_from_a_model_and_requests(tiny_model) -> None:
    settings = PrepareSettings(warm_up=WarmUpSettings(layers=(1,), requests=3, whiten=False))
    assert "warm_up" not in PrepareSettings(basis=BasisSettings(layers=(1,), threshold=0.02)).model_dump(mode="json")
    assert PrepareSettings.model_validate(settings.model_dump(mode="json")) == settings and settings.reads_requests
    found = prepare_tensors(settings, {}, tiny_model(), requests_of(5))
    assert int(found["statistics.16x64.count"]) == 3 and len(found) == 3
    with pytest.raises(ValueError, match="statistics are taken from a model, and none was given"):
        prepare_tensors(settings, {}, None, requests_of(5))
