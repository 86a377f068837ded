"""Settings of the jobs that run an editor: what the editor is, which draw of requests, and what the stage itself needs."""

from pydantic import Field

from d4s.config import BenchmarkSettings, Frozen, MeasureSettings
from d4s.editors.settings import EditorSettings


class RunSettings(Frozen):
    """One sequence of edits."""

    editor: EditorSettings
    seed: int = Field(ge=0, description="Draw of the requests and their order.")


class MeasureJobSettings(RunSettings):
    """Measures of a run at the lengths asked for."""

    measure: MeasureSettings = MeasureSettings()


class BenchmarkJobSettings(RunSettings):
    """Benchmarks of a run at the lengths asked for."""

    benchmarks: BenchmarkSettings = BenchmarkSettings()
