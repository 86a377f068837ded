from pathlib import Path

import pytest
import torch

from d4s.artifacts import Artifact, StageJob, write_tensors
from d4s.config import CorpusSettings, MomentsSettings
from d4s.editors.moments import check_token_count, collect_moments, evenly_spaced_rows, moments, read_moments
from d4s.errors import ArtifactError, SettingsError
from d4s.models.trace import trace


def rows_of(count: int, width: int = 12, seed: int = 0) -> torch.Tensor:
    return torch.randint(2, 30, (count, width), generator=torch.Generator().manual_seed(seed), dtype=torch.int32)


def one_shot(model, rows: torch.Tensor, layer: int) -> torch.Tensor:
    """All keys of all tokens at once, in float64."""
    with trace({"out": model.mlp_out(layer)}) as found:
        model.network(input_ids=rows.long())
    keys = found.inputs["out"].flatten(0, 1).double()
    return keys.mT @ keys


@pytest.mark.parametrize("family", ["gpt2", "gptj", "llama"])
def test_streamed_moments_equal_one_shot_moments(tiny_model, family: str) -> None:
    model, rows = tiny_model(family), rows_of(11)
    found = collect_moments(model, rows, (0, 2), batch_rows=4, source="text")
    for layer in (0, 2):
        expected = one_shot(model, rows, layer)
        torch.testing.assert_close(found[layer].sum_kk, expected, rtol=1e-5, atol=1e-5 * float(expected.abs().max()))
        torch.testing.assert_close(found[layer].mean(), found[layer].sum_kk / (11 * 12))
        assert found[layer].n_tokens == 11 * 12


def test_layers_together_and_alone_give_the_same_bits(tiny_model) -> None:
    model, rows = tiny_model(), rows_of(8)
    together, alone = collect_moments(model, rows, (0, 1, 2), 4, "text"), collect_moments(model, rows, (1,), 4, "text")
    assert torch.equal(together[1].sum_kk, alone[1].sum_kk)


def test_text_with_fewer_tokens_than_a_key_has_entries_is_refused(
    tiny_model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(SettingsError, match="keys of 64 entries need more than 63 tokens"):
        check_token_count(63, 64)
    check_token_count(64, 64)
    assert "64 tokens for keys of 64 entries are few" in caplog.text
    caplog.clear()
    check_token_count(4 * 64, 64)
    assert not caplog.text
    monkeypatch.setattr("d4s.editors.moments.load", lambda folder: tiny_model())
    inputs = {"model": tmp_path / "model", "text": corpus_at(tmp_path / "corpus")}
    with pytest.raises(SettingsError, match="keys of 64 entries need more than 60 tokens"):
        moments(StageJob("moments", MomentsSettings(tokens=60), inputs, tmp_path / "moments", ("l0.json",)))
    assert not (tmp_path / "moments").exists()


def test_rows_are_spread_over_the_whole_text() -> None:
    rows = torch.arange(100, dtype=torch.int32).repeat_interleave(10).reshape(100, 10)
    assert evenly_spaced_rows(rows, 50)[:, 0].tolist() == [0, 25, 50, 74, 99]
    assert len(evenly_spaced_rows(rows, 10**6)) == 100


def corpus_at(folder: Path) -> Path:
    folder.mkdir()
    write_tensors(folder / "tokens.safetensors", {"rows": rows_of(30)})
    StageJob("corpora", CorpusSettings(), {}, folder).write_manifest(["tokens.safetensors"])
    return folder


def test_the_verb_writes_missing_layers_only(tiny_model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("d4s.editors.moments.load", lambda folder: tiny_model())
    inputs = {"model": tmp_path / "model", "text": corpus_at(tmp_path / "corpus")}
    settings = MomentsSettings(tokens=200, batch_rows=5)
    moments(StageJob("moments", settings, inputs, tmp_path / "moments", ("l0.json", "l2.json")))
    first = (tmp_path / "moments" / "l0.safetensors").stat().st_mtime_ns
    moments(StageJob("moments", settings, inputs, tmp_path / "moments", ("l0.json", "l1.json")))
    assert (tmp_path / "moments" / "l0.safetensors").stat().st_mtime_ns == first
    found = read_moments(tmp_path / "moments", (0, 1, 2))
    expected = collect_moments(tiny_model(), evenly_spaced_rows(rows_of(30), 200), (0, 1, 2), 5, "corpus")
    for layer in (0, 1, 2):
        assert torch.equal(found[layer].sum_kk, expected[layer].sum_kk)
        assert (found[layer].n_tokens, found[layer].source) == (204, "corpus")


def test_a_torn_layer_is_refused_by_readers_and_made_again(tiny_model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("d4s.editors.moments.load", lambda folder: tiny_model())
    job = StageJob("moments", MomentsSettings(), {"model": tmp_path, "text": corpus_at(tmp_path / "c")}, tmp_path / "m", ("l1.json",))
    moments(job)
    whole = (tmp_path / "m" / "l1.safetensors").read_bytes()
    (tmp_path / "m" / "l1.safetensors").write_bytes(whole[:-8])
    with pytest.raises(ArtifactError, match=r"l1\.safetensors is truncated or altered"):
        read_moments(tmp_path / "m", (1,))
    moments(job)
    assert (tmp_path / "m" / "l1.safetensors").read_bytes() == whole
    assert Artifact.open(tmp_path / "m", "moments", "l1.json").manifest.notes == {"source": "c"}
