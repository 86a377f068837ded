"""What the unedited model answers, in blocks: made once, the same whatever is asked for beside it, checked where it is read."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from d4s.artifacts import Artifact, StageJob, write_table, write_tensors
from d4s.config import CorpusSettings, FactsSettings, FluencySettings
from d4s.editors.edit_requests import draw_requests
from d4s.errors import ArtifactError
from d4s.facts.record import Fact, Probe, to_rows
from d4s.metrics.fluency import continuations
from d4s.metrics.perplexity import perplexities
from d4s.metrics.scoring import FactEvaluation
from d4s.metrics.weight_norms import original_norms
from d4s.models.views import LiveModel
from d4s.runs import baseline as stage
from d4s.runs import baseline_reader
from d4s.runs.baseline import baseline
from d4s.runs.baseline_reader import NUMBERS_MANIFEST, block_manifests, read_baseline_numbers, read_continuations, read_evaluation
from d4s.schemas import FACTS
from tests.baselines import baseline_job, make_baseline
from tests.tiny import tiny_facts, tiny_model

SEED, TOKENS = 4, 6
TEXT = torch.randint(2, 60, (5, 12), generator=torch.Generator().manual_seed(1), dtype=torch.int32)


def facts() -> list[Fact]:
    """Eight facts; one has a neighbour that nobody knows the answer of."""
    first, *others = tiny_facts(8)
    return [replace(first, neighborhood=(*first.neighborhood, Probe("neighborhood", "Ada Moss works as a", None, "pre_edit"))), *others]


@pytest.fixture
def inputs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Path]:
    monkeypatch.setattr(stage, "load", lambda _: tiny_model())
    for module in (stage, baseline_reader):
        monkeypatch.setattr(module, "REQUESTS_PER_BLOCK", 3)
    write_table(tmp_path / "facts" / "facts.parquet", to_rows(facts()), FACTS)
    StageJob("facts", FactsSettings(source="tiny"), {}, tmp_path / "facts").write_manifest(["facts.parquet"])
    write_tensors(tmp_path / "text" / "heldout.safetensors", {"rows": TEXT})
    StageJob("corpora", CorpusSettings(), {}, tmp_path / "text").write_manifest(["heldout.safetensors"])
    return {"model": tmp_path / "model", "facts": tmp_path / "facts", "text": tmp_path / "text"}


def drawn(count: int | None = None) -> list[Fact]:
    return [fact for _, fact in draw_requests(facts(), SEED, count)]


def asked(chosen: list[Fact], max_new_tokens: int = TOKENS) -> FactEvaluation:
    return FactEvaluation.of(LiveModel(tiny_model()), chosen, probes_per_fact=3, max_new_tokens=max_new_tokens)


def assert_same(found: FactEvaluation, expected: FactEvaluation) -> None:
    """Discrete replies are equal, likelihoods to rounding: other facts were in the same pass."""
    assert [*found.before] == [*expected.before] and found.questions == expected.questions and found.texts == expected.texts
    for item, prediction in expected.before.items():
        mine = found.before[item]
        assert replace(mine, nll=0.0, alternative_nll=None) == replace(prediction, nll=0.0, alternative_nll=None)
        assert (mine.nll, mine.alternative_nll) == (
            pytest.approx(prediction.nll, abs=1e-4),
            pytest.approx(prediction.alternative_nll, abs=1e-4),
        )


def test_what_is_read_is_what_the_model_would_say(inputs: dict[str, Path], tmp_path: Path) -> None:
    folder = make_baseline(inputs, tmp_path / "b", 8, seed=SEED, max_new_tokens=TOKENS)
    assert_same(read_evaluation(folder, drawn()), asked(drawn()))
    assert_same(read_evaluation(folder, drawn(5)), asked(drawn(5)))
    chosen = [drawn()[place] for place in (1, 4)]
    assert_same(read_evaluation(folder, drawn(5), chosen), asked(chosen))


def test_without_free_answers_only_missing_ones_are_written(inputs: dict[str, Path], tmp_path: Path) -> None:
    found = read_evaluation(make_baseline(inputs, tmp_path / "b", 8, seed=SEED), drawn())
    assert {prediction.text for prediction in found.before.values()} == {None} and not found.texts
    assert_same(found, asked(drawn(), 0))
    assert "Ada Moss works as a" in {item.prompt for item in found.before if item.answer}


def test_long_targets_make_long_answers(inputs: dict[str, Path], tmp_path: Path) -> None:
    long = " ".join(["Oslo"] * 9)
    write_table(inputs["facts"] / "facts.parquet", to_rows([replace(fact, target_new=long) for fact in facts()]), FACTS)
    StageJob("facts", FactsSettings(source="tiny"), {}, inputs["facts"]).write_manifest(["facts.parquet"])
    folder = make_baseline(inputs, tmp_path / "b", 3, seed=SEED, max_new_tokens=TOKENS)
    assert Artifact.open(folder, "baselines", "b0.json").manifest.notes["max_new_tokens"] == 11


def test_a_longer_study_leaves_the_blocks_that_are_there(inputs: dict[str, Path], tmp_path: Path) -> None:
    whole = make_baseline(inputs, tmp_path / "whole" / "b", 8, seed=SEED, max_new_tokens=TOKENS, perplexity_rows=4)
    pieces = make_baseline(inputs, tmp_path / "pieces" / "b", 2, seed=SEED, max_new_tokens=TOKENS, perplexity_rows=4)
    before = (pieces / "b0.replies.parquet").stat().st_mtime_ns
    make_baseline(inputs, pieces, 8, seed=SEED, max_new_tokens=TOKENS, perplexity_rows=4)
    assert (pieces / "b0.replies.parquet").stat().st_mtime_ns == before
    for name in (*block_manifests(8), NUMBERS_MANIFEST, "b0.replies.parquet", "b2.replies.parquet", "whole.numbers.json"):
        assert (pieces / name).read_bytes() == (whole / name).read_bytes()


def test_what_is_there_costs_no_model(inputs: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_baseline(inputs, tmp_path / "b", 8, seed=SEED)
    monkeypatch.setattr(stage, "load", lambda _: pytest.fail("the model was loaded"))
    make_baseline(inputs, tmp_path / "b", 8, seed=SEED)
    assert (tmp_path / "b" / "b1.json").is_file()


def test_the_whole_model_is_its_perplexity_and_its_norms(inputs: dict[str, Path], tmp_path: Path) -> None:
    baseline(baseline_job(inputs, tmp_path / "b", NUMBERS_MANIFEST, seed=SEED, perplexity_rows=3))
    found, model = read_baseline_numbers(tmp_path / "b"), tiny_model()
    assert found.perplexities == perplexities(LiveModel(model), TEXT[:3].tolist())
    assert found.norms == original_norms(model)


def test_replies_about_other_facts_are_refused(inputs: dict[str, Path], tmp_path: Path) -> None:
    folder = make_baseline(inputs, tmp_path / "b", 8, seed=SEED)
    with pytest.raises(ArtifactError, match="replies about other facts in block 1"):
        read_evaluation(folder, [*drawn()[:3], drawn()[4]])


def test_a_missing_block_is_refused_by_name(inputs: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"holds no b1\.json"):
        read_evaluation(make_baseline(inputs, tmp_path / "b", 3, seed=SEED), drawn())


def test_texts_are_written_about_one_request_in_a_number_whatever_the_blocks(inputs: dict[str, Path], tmp_path: Path) -> None:
    fluency = FluencySettings(every=2, texts=2, tokens=5)
    baseline(baseline_job(inputs, tmp_path / "b", "b1.json", seed=SEED, fluency=fluency))
    make_baseline(inputs, tmp_path / "b", 8, seed=SEED, fluency=fluency)
    found = read_continuations(tmp_path / "b", 8)
    assert found == continuations(LiveModel(tiny_model()), drawn()[::2], fluency)
    assert [text.fact_id for text in found[::2]] == [fact.fact_id for fact in drawn()[::2]]
    assert found[:4] == read_continuations(tmp_path / "b", 3)
    assert (tmp_path / "b" / "b0.json").read_text() != (make_baseline(inputs, tmp_path / "silent", 3, seed=SEED) / "b0.json").read_text()
    assert "fluency" not in Artifact.open(tmp_path / "silent", "baselines", "b0.json").manifest.settings
