"""The stage `benchmark`: benchmark tasks on the states of a run at the lengths asked for, one job per run."""

import logging
from pathlib import Path

from d4s.artifacts import Artifact, StageJob, write_table
from d4s.editors.editor_settings import Unedited
from d4s.editors.families import build
from d4s.editors.ledger import read_state
from d4s.log import progress
from d4s.metrics.benchmark_files import BENCHMARK_FILES, role
from d4s.metrics.lm_eval_bridge import benchmarks
from d4s.models.loading import load
from d4s.runs.lengths import length_of
from d4s.runs.prepared_parts import load_prepared
from d4s.runs.run_settings import BenchmarkJobSettings
from d4s.schemas import BENCHMARK

log = logging.getLogger(__name__)


def benchmark(job: StageJob[BenchmarkJobSettings]) -> None:
    """Benchmark a run at every wanted length that is not there already."""
    lengths = sorted(map(length_of, job.missing_parts()))
    if not lengths:
        return
    model = job.read_once("model", load)
    editor = build(job.settings.editor)
    prepared = load_prepared(job.inputs, job.settings.editor)
    files, rows = _files(job), None
    for length in progress(lengths, f"benchmarks of {job.folder.name}", len(lengths)):
        state = read_state(job.inputs["run"], length, editor)
        if rows is None or not isinstance(job.settings.editor, Unedited):  # the unedited model is the same at every length
            with editor.edited(model, prepared, state) as edited:
                rows = benchmarks(edited, files, job.settings.benchmarks, model)
        name = f"n{length}.benchmark.parquet"
        write_table(job.path(name), rows.assign(step=length), BENCHMARK)
        job.write_manifest([name], f"n{length}.json")
        log.info("%s at %d edits: mean of the tasks %.3f", job.folder.name, length, rows["value"].mean())


def _files(job: StageJob[BenchmarkJobSettings]) -> dict[str, list[Path]]:
    """The items of each benchmark: the world's, checked against its manifest, or those of the data folder that the job was given."""
    match job.settings.benchmarks.tasks:
        case "world":
            world = Artifact.open(job.inputs["world"], "worlds")
            return {Path(name).stem: [world.path(name)] for name in world.manifest.files if name.startswith("benchmarks/")}
        case "local":
            return {name: [job.inputs[role(name, number)] for number, _ in enumerate(files)] for name, files in BENCHMARK_FILES.items()}
        case "hub":
            return {}
