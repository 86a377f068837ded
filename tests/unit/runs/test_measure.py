"""The stages `measure` and `benchmark` on a finished run of a tiny model: what they write, and what they do not do twice."""

import json
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from d4s.artifacts import Artifact, StageJob, write_table, write_tensors
from d4s.config import BenchmarkSettings, FluencySettings, MeasureSettings, MemorySettings
from d4s.editors.edit_requests import draw_requests
from d4s.editors.editor_settings import Grace, Unedited
from d4s.editors.serac import SeracEditor
from d4s.editors.unedited import UneditedEditor
from d4s.facts.record import to_rows
from d4s.metrics.fluency import ngram_entropy, words
from d4s.metrics.lm_eval_bridge import BENCHMARK_OF_WORLD_TASK
from d4s.models.tokens import encode
from d4s.models.views import LiveModel
from d4s.runs import benchmark as benchmark_module
from d4s.runs import measure as measure_module
from d4s.runs.benchmark import benchmark
from d4s.runs.edit_stage import edit
from d4s.runs.measure import measure, sample_evenly, summary_line
from d4s.runs.run_settings import BenchmarkJobSettings, MeasureJobSettings, RunSettings
from d4s.schemas import ANSWERS, BENCHMARK, CONTINUATIONS, ENTROPY, FACTS, LOOPS, MEMORY, NEAR_MISSES, NORMS, PERPLEXITY, ROUTES, SCORES
from d4s.settings_base import Frozen
from tests.baselines import make_baseline
from tests.cases import case_for, settings_for
from tests.tasks import ITEMS
from tests.tiny import tiny_facts, tiny_model

LENGTHS = (2, 4, 6)
SCHEMAS = {"scores": SCORES, "answers": ANSWERS, "norms": NORMS, "perplexity": PERPLEXITY}


UNEDITED, SHIFTING = Unedited(), Grace(layer=1)  # only its family matters: `build` is replaced


class Nothing(Frozen):
    """No settings."""


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Everything a measure reads: model, facts, corpus, world, and a finished run that edits nothing."""
    root = tmp_path_factory.mktemp("store")
    model = tiny_model()
    model.network.save_pretrained(root / "model")
    model.tokenizer.save_pretrained(root / "model")
    write_table(root / "facts" / "facts.parquet", to_rows(tiny_facts(8)), FACTS)
    rows = [encode(model, "Ada Moss lives in the city of Paris ."), encode(model, "Ben Reed works as a pilot , is yes")]
    write_tensors(root / "text" / "heldout.safetensors", {"rows": torch.tensor(rows, dtype=torch.int32)})
    for task, items in ITEMS.items():
        path = root / "world" / "benchmarks" / f"{task}.jsonl"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(json.dumps(item) + "\n" for item in items))
    finish = {"facts": ("facts", ["facts.parquet"]), "text": ("corpora", ["heldout.safetensors"])}
    finish["world"] = ("worlds", [f"benchmarks/{task}.jsonl" for task in ITEMS])
    for name, (kind, files) in finish.items():
        StageJob(kind, Nothing(), {}, root / name).write_manifest(files)
    found = {name: root / name for name in ("model", "facts", "text", "world", "run", "baseline")}
    make_baseline(found, root / "baseline", 6, seed=1, max_new_tokens=5, perplexity_rows=96)
    edit(StageJob("runs", RunSettings(editor=Unedited(), seed=1), found, root / "run", manifests(*LENGTHS)))
    return found


def manifests(*lengths: int) -> tuple[str, ...]:
    return tuple(f"n{length}.json" for length in lengths)


def measure_job(inputs, folder, *lengths, editor=UNEDITED, **settings) -> StageJob[MeasureJobSettings]:
    folder.mkdir(exist_ok=True)
    chosen = MeasureJobSettings(editor=editor, seed=1, measure=MeasureSettings(max_new_tokens=5, **settings))
    return StageJob("measures", chosen, inputs, folder, manifests(*lengths), digest="0123456789")


def tables(folder: Path, length: int) -> dict[str, pd.DataFrame]:
    artifact = Artifact.open(folder, "measures", f"n{length}.json")
    return {name: artifact.table(f"n{length}.{name}.parquet", schema) for name, schema in SCHEMAS.items()}


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


class ShiftingEditor(UneditedEditor):
    """Changes a weight by the number of edits; what an additive editor looks like from outside."""

    size = 0.02

    @contextmanager
    def edited(self, model, prepared, state):
        before = model.weight(1).clone()
        signs = torch.where(torch.arange(16) % 3 == 0, 1.0, -1.0)[:, None]  # not uniform: layer norm would take that out
        with model.patched({1: self.size * len(state.records) * signs.expand_as(before)}):
            yield LiveModel(model, {1: before})


def test_every_length_asks_about_all_edits_so_far(inputs, tmp_path):
    measure(measure_job(inputs, tmp_path / "m", 2, 6))
    order = [fact.fact_id for _, fact in draw_requests(tiny_facts(8), 1, 6)]
    for length in (2, 6):
        found = tables(tmp_path / "m", length)
        steps = found["scores"].drop_duplicates("fact_id").set_index("fact_id")["edited_at"]
        assert steps.to_dict() == {fact: step for step, fact in enumerate(order[:length], 1)}
        assert {int(step) for frame in found.values() for step in frame["step"]} == {length}
        means = found["scores"].groupby("metric")["value"].mean()
        assert means["locality_accuracy"] == means["locality_generated"] == 1.0
        assert set(found["answers"]["fact_id"]) == set(order[:length])
        perplexity = found["perplexity"].set_index("quantity")["value"]
        assert perplexity["perplexity_ratio"] == 1.0 and perplexity["perplexity"] > 1.0
        assert sorted(set(found["norms"]["layer"])) == [0, 1, 2]


def test_measures_see_the_state_of_their_length(inputs, tmp_path, monkeypatch):
    monkeypatch.setattr(measure_module, "build", lambda _: ShiftingEditor(UNEDITED))
    measure(measure_job(inputs, tmp_path / "m", *LENGTHS, editor=SHIFTING))
    for length in LENGTHS:
        norms = tables(tmp_path / "m", length)["norms"].set_index(["layer", "quantity"])["value"]
        assert norms[1, "l1_per_element_delta"] == pytest.approx(0.02 * length, rel=1e-5)
        assert norms[0, "l1_per_element_delta"] == 0.0
    ratios = [tables(tmp_path / "m", length)["perplexity"].set_index("quantity")["value"]["perplexity_ratio"] for length in LENGTHS]
    assert len({*ratios, 1.0}) == 4


def test_an_unedited_run_is_its_baseline_and_what_asking_the_model_again_gives(inputs, tmp_path, monkeypatch):
    again = type("Still", (ShiftingEditor,), {"size": 0.0})
    with monkeypatch.context() as patch:
        patch.setattr(measure_module, "build", lambda _: again(UNEDITED))
        measure(measure_job(inputs, tmp_path / "asked", *LENGTHS, editor=SHIFTING))
    monkeypatch.setattr(measure_module, "load", lambda *_: pytest.fail("an unedited run needs no model"))
    measure(measure_job(inputs, tmp_path / "read", *LENGTHS))
    for length in LENGTHS:
        found, expected = tables(tmp_path / "read", length), tables(tmp_path / "asked", length)
        for name in SCHEMAS:
            pd.testing.assert_frame_equal(found[name], expected[name], check_exact=name != "perplexity")


def test_texts_are_scored_beside_the_questions_for_edited_and_unedited_alike(inputs, tmp_path, monkeypatch):
    fluency = FluencySettings(every=2, texts=3, tokens=8)
    writing = make_baseline(inputs, tmp_path / "writing", 6, seed=1, max_new_tokens=5, perplexity_rows=96, fluency=fluency)
    again = type("Still", (ShiftingEditor,), {"size": 0.0})
    with monkeypatch.context() as patch:
        patch.setattr(measure_module, "build", lambda _: again(UNEDITED))
        measure(measure_job({**inputs, "baseline": writing}, tmp_path / "asked", 2, 6, editor=SHIFTING, fluency=fluency))
    measure(measure_job({**inputs, "baseline": writing}, tmp_path / "read", 2, 6, fluency=fluency))
    for length in (2, 6):
        asked, read = (
            Artifact.open(tmp_path / name, "measures", f"n{length}.json").table(f"n{length}.continuations.parquet", CONTINUATIONS)
            for name in ("asked", "read")
        )
        pd.testing.assert_frame_equal(asked, read)
        scores = tables(tmp_path / "read", length)["scores"]
        rows = scores[scores["metric"] == ENTROPY]
        assert sorted(set(rows["edited_at"])) == [1, 3, 5][: length // 2] and len(rows) == 3 * length // 2 == len(read)
        expected = {(text["fact_id"], text["number"]): ngram_entropy(words(text["text"])) for text in read.to_dict(orient="records")}
        assert {(row.fact_id, row.prompt_id): row.value for row in rows.itertuples()} == expected
        assert set(scores[scores["metric"] == LOOPS]["value"]) <= {0.0, 1.0} and set(rows["protocol"]) == {"retained"}


def test_lengths_asked_for_later_give_the_same_bytes_and_touch_no_old_file(inputs, tmp_path):
    measure(measure_job(inputs, tmp_path / "at_once", *LENGTHS))
    bit_by_bit = tmp_path / "bit" / "at_once"
    bit_by_bit.parent.mkdir()
    measure(measure_job(inputs, bit_by_bit, 4))
    stamps = {path: path.stat().st_mtime_ns for path in bit_by_bit.glob("n4.*.parquet")}
    measure(measure_job(inputs, bit_by_bit, *LENGTHS))
    assert {path: path.stat().st_mtime_ns for path in stamps} == stamps
    assert contents(bit_by_bit) == contents(tmp_path / "at_once")


def test_a_lost_manifest_is_put_back_without_measuring(inputs, tmp_path, monkeypatch):
    job = measure_job(inputs, tmp_path / "m", 2)
    measure(job)
    before = contents(job.folder)
    (job.folder / "n2.json").unlink()
    monkeypatch.setattr(measure_module, "load", lambda *_: pytest.fail("nothing is to be measured"))
    measure(job)
    assert contents(job.folder) == before


def test_a_damaged_table_is_measured_again(inputs, tmp_path):
    job = measure_job(inputs, tmp_path / "m", 2)
    measure(job)
    before = contents(job.folder)
    (job.folder / "n2.scores.parquet").write_bytes(b"torn")
    measure(job)
    assert contents(job.folder) == before


def test_a_sample_caps_facts_and_keeps_both_ends(inputs, tmp_path):
    silent = make_baseline(inputs, tmp_path / "silent", 6, seed=1, perplexity_rows=96)
    measure(measure_job({**inputs, "baseline": silent}, tmp_path / "m", 6, sample=3, generate=False))
    found = tables(tmp_path / "m", 6)
    assert sorted(set(found["scores"]["edited_at"])) == [1, 3, 6]
    assert len(found["answers"]) == 0
    assert not found["scores"]["metric"].str.endswith("generated").any()


@pytest.mark.parametrize(("count", "sample", "kept"), [(5, "all", 5), (5, 9, 5), (100, 7, 7), (2, 1, 1)])
def test_samples_are_spread_evenly(count, sample, kept):
    drawn = list(zip(range(count), range(count), strict=True))
    places = [place for place, _ in sample_evenly(drawn, sample)]
    assert len(set(places)) == kept
    assert places[0] == 0
    assert np.ptp(np.diff(places)) <= 1 if kept > 1 else True


def test_the_headline_shows_what_was_measured():
    rows = [{"metric": "efficacy_accuracy", "value": 1.0}, {"metric": "efficacy_accuracy", "value": 0.5}]
    assert summary_line(rows, {"perplexity": 7.0}) == "efficacy_accuracy 0.750, perplexity 7.00"


def benchmark_job(inputs, folder, *lengths, tasks="world", limit=2) -> StageJob[BenchmarkJobSettings]:
    folder.mkdir(exist_ok=True)
    settings = BenchmarkJobSettings(editor=Unedited(), seed=1, benchmarks=BenchmarkSettings(tasks=tasks, limit=limit))
    return StageJob("benchmarks", settings, inputs, folder, manifests(*lengths), digest="0123456789")


@pytest.mark.filterwarnings("ignore")
def test_benchmarks_are_written_per_length_and_not_run_twice(inputs, tmp_path, monkeypatch):
    job = benchmark_job(inputs, tmp_path / "b", 2, 6)
    benchmark(job)
    frames = [Artifact.open(job.folder, "benchmarks", f"n{n}.json").table(f"n{n}.benchmark.parquet", BENCHMARK) for n in (2, 6)]
    assert [set(frame["step"]) for frame in frames] == [{2}, {6}]
    assert set(frames[0]["n"]) == {2}
    assert len(frames[0]) == len(BENCHMARK_OF_WORLD_TASK)
    pd.testing.assert_frame_equal(frames[0].drop(columns="step"), frames[1].drop(columns="step"))
    monkeypatch.setattr(benchmark_module, "load", lambda *_: pytest.fail("nothing is to be run"))
    benchmark(job)
    assert (job.folder / "n6.json").is_file()


def test_a_memory_is_asked_for_its_entries_and_every_model_near_misses(inputs, tmp_path, monkeypatch):
    settings = settings_for("serac").model_copy(update={"scope": "true"})
    prepared, drawn = case_for(settings).prepared, draw_requests(tiny_facts(8), 1, 6)

    class Remembering(UneditedEditor):
        @contextmanager
        def edited(self, model, _, state):
            editor = SeracEditor(settings)
            with editor.editing(model, prepared, editor.start(model, prepared)) as session:
                for request, _ in drawn[: len(state.records)]:
                    session.step([request], None)
                yield session.live()

    asking = {"generate": False, "memory": MemorySettings(entries=(10,), queries=2)}
    for name, editor in {"memory": Remembering, "weights": type("Far", (ShiftingEditor,), {"size": 2.0})}.items():
        monkeypatch.setattr(measure_module, "build", lambda _, editor=editor: editor(UNEDITED))
        measure(measure_job(inputs, tmp_path / name, 2, 6, editor=SHIFTING, **asking))
    for length in (2, 6):
        artifact = Artifact.open(tmp_path / "memory", "measures", f"n{length}.json")
        routes, sizes = artifact.table(f"n{length}.routes.parquet", ROUTES), artifact.table(f"n{length}.memory.parquet", MEMORY)
        assert routes["fact_id"].nunique() == length and (routes["entry"].fillna("") == routes["expected"].fillna("")).all()
        assert sizes["quantity"].tolist() == ["bytes", "query_seconds"]
        near = {name: tables(tmp_path / name, length)["scores"] for name in ("memory", "weights")}
        near = {name: rows[rows["metric"] == NEAR_MISSES]["value"] for name, rows in near.items()}
        assert near["memory"].min() == 1.0 > near["weights"].mean() and len(near["memory"]) == len(near["weights"]) == length
    assert not [*(tmp_path / "weights").glob("*.routes.parquet")]
