"""The settings of a study, the content of `params.yaml`: models, data sets, editors, the grid, and how it is run."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import Discriminator, Field, Tag, model_validator

from d4s.config import (
    COMPOUNDS,
    BeliefsSettings,
    BenchmarkSettings,
    Compound,
    ContextsSettings,
    Control,
    CorpusSettings,
    Form,
    HardCasesSettings,
    MeasureSettings,
    PosteriorSettings,
    PretrainSettings,
    ProbeKind,
    Problem,
    RobustnessSettings,
    TokenizerSettings,
    TraceSettings,
    WorldSettings,
)
from d4s.errors import MissingDataError, SettingsError
from d4s.settings_base import Count, Fraction, Frozen, Name, validate
from d4s.writer_settings import AnyJudgeSettings, AnyWriterSettings, TemplateWriterSettings

AT_LAYER = "@"
"""Between an editor's name and the layer that a sweep moves it to."""
HPARAMS_FOR = "Kind of model whose hyperparameters the editors take, e.g. gpt2-xl (see `d4s.editors.presets`), or a file of `d4s tune`."


class WorldModel(Frozen):
    """A small model trained on the world's people and events."""

    source: Literal["world"] = "world"
    hparams_for: str = Field(default="mini", description=HPARAMS_FOR)
    labels: int = Field(default=0, ge=0, description="Number of yes/no statements about people to train on as well (style `labels`).")
    model_seed: int = Field(default=0, ge=0, description="Seed of the initial weights and of the order of training.")
    corpus: CorpusSettings = CorpusSettings()
    pretrain: PretrainSettings = PretrainSettings()


class RecordsModel(Frozen):
    """A small model trained on real records and running text."""

    source: Literal["records"] = "records"
    hparams_for: str = Field(default="mini", description=HPARAMS_FOR)
    datasets: tuple[Name, ...] = Field(description="Names of the data sets that it is trained on.")
    text: Name = Field(default="wikitext2_raw_test", description="Running text in the data folder.")
    model_seed: int = Field(default=0, ge=0, description="Seed of the initial weights and of the order of training.")
    corpus: CorpusSettings = CorpusSettings(tokenizer=TokenizerSettings(kind="bpe"), filler=0.2, lead_ins=0.3, text_weight=0.7)
    pretrain: PretrainSettings = PretrainSettings()


class BeliefsModel(Frozen):
    """A small model trained on the statements of a world of beliefs, each as often as the others of its kind."""

    source: Literal["beliefs"] = "beliefs"
    hparams_for: str = Field(default="mini", description=HPARAMS_FOR)
    statements: tuple[Compound, ...] = Field(default=COMPOUNDS, description="Kinds of statements to train on beside observations.")
    model_seed: int = Field(default=0, ge=0, description="Seed of the initial weights and of the order of training.")
    corpus: CorpusSettings = CorpusSettings(
        tokens=2_500_000,
        filler=0.1,
        chained=0.0,
        lead_ins=0.2,
        shares={"not": 2.0, "and": 2.0, "or": 2.0},
        prompt_weight=0.3,
        question_prompt_weight=1.0,
        answer_weight=6.0,
    )
    pretrain: PretrainSettings = PretrainSettings()


class HFModel(Frozen):
    """Any causal language model in Hugging Face format."""

    source: Literal["hf"] = "hf"
    hparams_for: str = Field(description=HPARAMS_FOR)
    path: str = Field(description="Local folder, hub id, GGUF file, or a name of `d4s fetch`.")
    revision: str = Field(default="main", description="Branch, tag or commit, for a hub id.")
    dtype: Literal["float32", "bfloat16", "float16"] = Field(default="float32", description="Precision of the loaded weights.")
    device_map: str | None = Field(default=None, description="How Transformers spreads the model over devices, e.g. auto.")
    text: Name = Field(default="wikitext2_raw_test", description="Text for moments and perplexity, in the data folder.")
    corpus: CorpusSettings = Field(
        default=CorpusSettings(tokenizer=TokenizerSettings(kind="model")), description="How the text is cut into rows of tokens."
    )


class AskedModel(Frozen):
    """A model of the study that is asked otherwise: the same weights, with prompts and text that start without BOS."""

    source: Literal["model"] = "model"
    hparams_for: str = Field(default="mini", description=HPARAMS_FOR)
    of: Name = Field(description="Name of the model whose weights it has, one that is trained here.")
    start: Literal["none"] = Field(default="none", description="How texts start; all other models start with BOS where they have one.")


TrainedModel = WorldModel | RecordsModel | BeliefsModel | HFModel
"""A model with weights of its own."""
ModelSettings = Annotated[TrainedModel | AskedModel, Field(discriminator="source")]


class FactsDataset(Frozen):
    """A data set of facts: the world, or records in the data folder."""

    source: str = Field(description="Name of a reader: `world`, `counterfact`, `zsre_mend`, … (see `d4s.facts.readers`).")
    style: str = Field(default="", description="Reading of the source where it has several.")
    limit: Count | None = Field(default=None, description="Keep this number of records that pass, the first ones; all when omitted.")
    skip_bad: bool = Field(default=False, description="Set broken records aside in rejects.parquet instead of refusing the file.")
    seed: int = Field(default=0, ge=0, description="Seed of draws made while reading.")
    problem: Problem = Field(
        default="injection",
        description="What the edits are for: a new answer, the present one with more certainty, or the one to the noised prompt.",
    )
    only: str | None = Field(
        default=None,
        exclude_if=lambda only: only is None,
        description="Keep the facts of a file with an id per line, or a set of the study's `hard_cases`: `hard`, or `normal`.",
    )


class QuestionsDataset(Frozen):
    """A data set of questions about events in one form."""

    source: Literal["questions"]
    events: Literal["world", "atomic2020", "atomic2019"] = Field(default="world", description="Where the if-then events come from.")
    form: Form | Control = Field(description="Which of the three forms of the same event, or which control of the generated one.")
    limit: Count | None = Field(default=None, description="Keep this number of events, the first ones; all when omitted.")
    seed: int = Field(default=0, ge=0, description="Seed of counterfactual tails, distractors, positions and wordings.")


class LayerSweep(Frozen):
    """Layers to which every editor of a row is applied in turn, each under a name of its own such as `rome@2`."""

    layers: Literal["all"] | tuple[Annotated[int, Field(ge=0)], ...] = Field(default="all", description="The layers, or all of the model.")
    window: Count = Field(default=1, description="Number of neighbouring layers edited together around each; fewer at both ends.")


class GridRow(Frozen):
    """Every combination of the named models, data sets and editors, at the same lengths."""

    models: tuple[Name, ...] = Field(min_length=1, description="Names from `models`.")
    datasets: tuple[Name, ...] = Field(min_length=1, description="Names from `datasets`.")
    editors: tuple[Name, ...] = Field(min_length=1, description="Names from `editors`, or presets.")
    lengths: tuple[Count, ...] = Field(
        min_length=1,
        description="Numbers of edits after which is measured; all come from one run. Of single edits, the one number of requests.",
    )
    benchmark: Literal["none", "longest", "all"] = Field(default="none", description="At which lengths the benchmarks run.")
    protocol: Literal["sequence", "single"] = Field(
        default="sequence", description="Edit one request after another, or every request alone, each from the original weights."
    )
    probes: tuple[ProbeKind, ...] = Field(default=(), description="What is asked after every single edit; needed for `protocol: single`.")
    sweep: LayerSweep | None = Field(default=None, description="Apply every editor of the row to one layer after another.")
    shares: tuple[Fraction, ...] = Field(
        default=(),
        description="Shares of the change of weights at which models answer shifted prompts after each length; not asked where empty.",
    )
    seeds: tuple[Annotated[int, Field(ge=0)], ...] = Field(
        default=(), exclude_if=lambda seeds: not seeds, description="Draws of requests of this row; those of the study where empty."
    )

    @model_validator(mode="after")
    def _distinct(self) -> "GridRow":
        for axis in ("models", "datasets", "editors", "lengths", "probes", "shares", "seeds"):
            values = getattr(self, axis)
            if len(set(values)) != len(values):
                raise ValueError(f"{axis} repeats an entry: {list(values)}")
        return self

    @model_validator(mode="after")
    def _fits_protocol(self) -> "GridRow":
        if self.protocol == "sequence" and self.probes:
            raise ValueError("probes are asked after single edits; leave them out, or set protocol to single")
        if self.protocol == "single" and not (self.probes and len(self.lengths) == 1 and self.benchmark == "none"):
            raise ValueError("single edits need one length, the number of requests, and probes, and run no benchmark")
        if self.protocol == "single" and self.shares:
            raise ValueError("shifted prompts are asked after sequences; leave `shares` out, or set protocol to sequence")
        if self.protocol == "single" and self.seeds:
            raise ValueError("single edits have the draws of the study; leave `seeds` out, or set protocol to sequence")
        return self


ClaimGroup = Literal["d4s", "batches", "beliefs", "collapse", "localisation", "memory", "robustness", "saul"]


class FigureSettings(Frozen):
    """How figures are drawn."""

    format: tuple[Literal["pdf", "svg", "png"], ...] = Field(default=("pdf", "svg", "png"), description="File types of every figure.")
    dpi: Count = Field(default=200, description="Resolution of PNG files.")


class ShardSettings(Frozen):
    """Numbers of jobs that share the work on one artefact; its files are the same for any number."""

    targets: Count = Field(default=1, description="Jobs that share the blocks of targets of one request list.")
    moments: Count = Field(default=1, description="Jobs that share the layers whose moments are taken; each of them reads the text.")
    edit_single: Count = Field(default=1, description="Jobs that share the blocks of requests which an editor edits alone.")


class StudyTracing(TraceSettings):
    """Causal tracing of the facts behind single edits, and the noise of reversal."""

    facts: Count = Field(description="Facts of every draw that are traced, the first ones; more continue where fewer ended.")


class StudyHardCases(HardCasesSettings):
    """The single edits among which hard cases are looked for."""

    model: Name = Field(description="Name of the model that is edited.")
    dataset: Name = Field(description="Name of the data set that requests are drawn from.")
    editors: tuple[Name, ...] = Field(min_length=1, description="Editors of a row with `protocol: single` and `text` among its probes.")


class ExecutionSettings(Frozen):
    """How and where work is done; enters no result and no hash."""

    shards: ShardSettings = ShardSettings()
    state_device: Literal["auto", "cpu"] = Field(
        default="auto", description="Where solvers and second moments are held: on the device of their layer, or in the machine's memory."
    )
    time_limit: Count | None = Field(default=None, description="Minutes that a cluster gives to one job; no rule asks for more.")


def _dataset_kind(value: Any) -> str:
    source = value.get("source") if isinstance(value, Mapping) else getattr(value, "source", None)
    return "questions" if source == "questions" else "facts"


Dataset = Annotated[
    Annotated[FactsDataset, Tag("facts")] | Annotated[QuestionsDataset, Tag("questions")],
    Discriminator(_dataset_kind),
]


class Study(Frozen):
    """A complete study: the content of `params.yaml`."""

    study: Name = Field(description="Name of the study; what people read goes to results/STUDY/.")
    seeds: tuple[Annotated[int, Field(ge=0)], ...] = Field(
        default=(1,), min_length=1, description="Draws of requests, their order and contexts."
    )
    data: str | None = Field(default=None, description="Folder with data sets; the variable D4S_DATA when omitted.")
    world: WorldSettings = WorldSettings()
    beliefs: BeliefsSettings = BeliefsSettings()
    posterior: PosteriorSettings = Field(default=PosteriorSettings(), description="`statements` is set by those of a model.")
    models: dict[Name, ModelSettings] = Field(min_length=1, description="The models by the name that the grid uses.")
    datasets: dict[Name, Dataset] = Field(min_length=1, description="The data sets by the name that the grid uses.")
    questions: AnyWriterSettings = Field(default=TemplateWriterSettings(), description="Who words the questions, and how.")
    editors: dict[Name, dict[str, Any]] = Field(
        default_factory=dict, description="Editors that are no presets already: `preset` and what differs."
    )
    grid: tuple[GridRow, ...] = Field(min_length=1, description="What is run: rows of combinations.")
    contexts: ContextsSettings = Field(default=ContextsSettings(), description="`seed` is set by `seeds`.")
    moments_tokens: Count = Field(default=65_536, description="Tokens of text behind the second moments.")
    trace: StudyTracing | None = Field(default=None, description="Causal tracing of facts that are edited alone; none when omitted.")
    hard_cases: StudyHardCases | None = Field(
        default=None, description="Hard cases among single edits, for data sets with `only: hard` or `only: normal`; none when omitted."
    )
    sentences: str | None = Field(
        default=None,
        exclude_if=lambda file: file is None,
        description="File of the data folder with a sentence per line (JSON, key `Text`), whose perplexity is read after single edits; "
        "held-out text of the model when omitted.",
    )
    measure: MeasureSettings = MeasureSettings()
    judge: AnyJudgeSettings | None = Field(
        default=None,
        exclude_if=lambda judge: judge is None,
        description="Who judges free answers (`measure.free_answers`); nobody when omitted.",
    )
    robustness: RobustnessSettings = Field(default=RobustnessSettings(), description="What rows with `shares` are asked.")
    benchmarks: BenchmarkSettings = BenchmarkSettings()
    claims: tuple[ClaimGroup, ...] = Field(default=("d4s",), min_length=1, description="Papers whose claims are judged, in order.")
    leaderboard: bool = Field(
        default=False,
        exclude_if=lambda asked: not asked,
        description="Also rank the editors, on a page of its own: results/STUDY/index.html.",
    )
    figures: FigureSettings = FigureSettings()
    execution: ExecutionSettings = ExecutionSettings()
    ignore_code_changes: bool = Field(default=False, description="Leave code out of the hashes of artefacts (recorded in their manifests).")


def load_study(path: Path) -> Study:
    """The study in a YAML file.

    Raises:
        SettingsError: if the file is no YAML mapping or any key or value is wrong; names all problems.
    """
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:  # an impossible date, or bytes that are no text, are ValueErrors
        raise SettingsError(f"{path} cannot be read as YAML: {error}") from None
    if not isinstance(content, Mapping):
        raise SettingsError(f"{path} holds {type(content).__name__}, expected a mapping of settings")
    return validate(Study, content, str(path))


def data_folder(setting: str | None) -> Path:
    """The folder with data sets: the setting, else the variable `D4S_DATA`.

    Raises:
        MissingDataError: if neither names an existing folder.
    """
    chosen = setting or os.environ.get("D4S_DATA")
    if not chosen:
        raise MissingDataError("this study reads records, but neither `data:` in the settings nor D4S_DATA names their folder")
    folder = Path(chosen)
    if not folder.is_dir():
        raise MissingDataError(f"the data folder {folder} does not exist; set `data:` or D4S_DATA to the folder with the data sets")
    return folder
