"""Settings of the jobs that run an editor: what the editor is, which draw of requests, and what the stage itself needs."""

from pydantic import Field

from d4s.config import BenchmarkSettings, FluencySettings, FreeAnswersSettings, MeasureSettings, ProbeKind, RobustnessSettings
from d4s.editors.editor_settings import EditorSettings
from d4s.settings_base import Count, Fraction, Frozen, Name


class RunSettings(Frozen):
    """One sequence of edits."""

    editor: EditorSettings
    seed: int = Field(ge=0, description="Draw of the requests and their order.")


class SingleSettings(RunSettings):
    """Requests edited alone, each from the original weights."""

    probes: tuple[ProbeKind, ...] = Field(min_length=1, description="What is asked after every edit.")
    perplexity_rows: int = Field(default=0, ge=0, description="Rows of held-out text; none where 0.")


class BaselineSettings(Frozen):
    """What the unedited model is asked once for all editors."""

    seed: int = Field(ge=0, description="Draw of the requests and their order.")
    probes_per_fact: Count = Field(default=3, description="Largest number of neighbourhood and locality probes of each kind per fact.")
    max_new_tokens: int = Field(default=0, ge=0, description="Longest free answer in tokens; longer targets extend it; none where 0.")
    perplexity_rows: int = Field(default=0, ge=0, description="Rows of held-out text.")
    fluency: FluencySettings | None = Field(
        default=None, exclude_if=lambda fluency: fluency is None, description="Texts that the model writes; none when omitted."
    )


class MeasureJobSettings(RunSettings):
    """Measures of a run at the lengths asked for."""

    measure: MeasureSettings = MeasureSettings()


class AnswerJobSettings(RunSettings):
    """Free answers of a run at the lengths asked for."""

    free_answers: FreeAnswersSettings = FreeAnswersSettings()
    probes_per_fact: Count = Field(default=3, description="Largest number of locality probes of each kind per fact.")


class BenchmarkJobSettings(RunSettings):
    """Benchmarks of a run at the lengths asked for."""

    benchmarks: BenchmarkSettings = BenchmarkSettings()


class RobustnessJobSettings(RunSettings):
    """Shifted prompts put to a run's edited models, on the way from the original to the edited weights."""

    robustness: RobustnessSettings = RobustnessSettings()
    shares: tuple[Fraction, ...] = Field(
        min_length=1, description="Shares of the change of weights; 0 is the original, 1 the edited model."
    )


class WorldReportSettings(Frozen):
    """What a trained model is held against before anything is shown of it; no criterion favours an editor."""

    editors: dict[Name, EditorSettings] = Field(description="Editors that must succeed with a single edit, resolved.")
    seed: int = Field(default=0, ge=0, description="Draw of the requests.")
    requests: Count = Field(default=100, description="Requests whose targets are injected and whose keys are looked at.")
    single_edits: Count = Field(default=50, description="Requests that every editor edits alone, each into the unedited model.")
