"""The settings of a study: frozen pydantic models with a description per key; unknown keys are refused.

A stage receives exactly the sub-tree it uses (`*Settings`); `Study` is the content of `params.yaml`. Settings of
editors are in `d4s.editors.editor_settings`, resolved by `d4s.study`. Nothing here imports torch.
"""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag, ValidationError, model_validator

from d4s.errors import MissingDataError, SettingsError
from d4s.registry import nearest
from d4s.writer_settings import AnyWriterSettings, ModelWriterSettings, TemplateWriterSettings

Control = Literal["long_predictable", "short_surprising", "uniform", "diverse"]
Form = Literal["true_false", "multiple_choice", "directly_generated"]
FORMS: tuple[Form, ...] = ("true_false", "multiple_choice", "directly_generated")
Count = Annotated[int, Field(gt=0)]
Fraction = Annotated[float, Field(ge=0.0, le=1.0)]
Name = Annotated[str, Field(pattern=r"^[A-Za-z][A-Za-z0-9_]*$")]


class Frozen(BaseModel):
    """Parent of all settings models: immutable, unknown keys refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


S = TypeVar("S", bound=BaseModel)


def describe(error: ValidationError, model: type[BaseModel], where: str) -> str:
    """One message with every problem of a validation error: its place, what was found, and the nearest key."""
    lines = []
    for item in error.errors():
        place = ".".join(str(part) for part in item["loc"]) or "(top level)"
        if item["type"] == "extra_forbidden":
            known = _keys_at(model, item["loc"][:-1])
            lines.append(f"{place}: unknown key; {nearest(str(item['loc'][-1]), known)}")
        elif item["type"] == "value_error" and isinstance(item.get("input"), Mapping):
            lines.append(f"{place}: {item.get('ctx', {})['error']}")
        else:
            lines.append(f"{place}: {item['msg']}, found {item.get('input')!r}")
    return f"{where} has {len(lines)} problem(s):\n" + "\n".join(f"  {line}" for line in lines)


def _keys_at(model: type[BaseModel], path: tuple[int | str, ...]) -> list[str]:
    """Known keys of the settings model reached by a path of keys (union members are merged)."""
    models: list[type[BaseModel]] = [model]
    for part in path:
        fields = [m.model_fields[part].annotation for m in models if part in m.model_fields]
        if fields:
            models = [found for annotation in fields for found in _models_in(annotation)]
    return sorted({key for m in models for key in m.model_fields})


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation, *annotation.__subclasses__()]  # those of a family of parts
    return [found for part in getattr(annotation, "__args__", ()) for found in _models_in(part)]


def validate(model: type[S], settings: Any, where: str) -> S:
    """Settings as an instance of `model`, checked.

    Raises:
        SettingsError: naming every problem at once.
    """
    try:
        return model.model_validate(settings)
    except ValidationError as error:
        raise SettingsError(describe(error, model, where)) from None


# --- stages -----------------------------------------------------------------------------------------------------------


class WorldSettings(Frozen):
    """The made-up world that the embedded model is trained on: people, their relations, if-then events, benchmark items."""

    seed: int = Field(default=0, ge=0, description="Seed of names, relations, events and benchmark items.")
    people: Count = Field(default=375, description="Number of people; each has one object per relation.")
    first_names: Count = Field(default=60, description="Distinct first names (shared by people).")
    last_names: Count = Field(default=125, description="Distinct last names (shared by people).")
    bystanders: Fraction = Field(default=0.2, description="Share of people and of events that are never edited, only probed.")
    events: int = Field(default=120, ge=0, description="Number of if-then event heads; each has one tail per relation.")
    benchmark_items: Count = Field(default=100, description="Items per benchmark task, at most.")


class FactsSettings(Frozen):
    """Which records become facts."""

    source: str = Field(description="Name of a reader (see `d4s.facts.readers`).")
    style: str = Field(
        default="",
        description="Which reading of the source (zsre: `alt` or `answers`; world: `qa`, `events`, `labels`, `commonsense`).",
    )
    limit: Count | None = Field(default=None, description="Keep this number of records that pass, the first ones; all when omitted.")
    skip_bad: bool = Field(default=False, description="Set broken records aside in rejects.parquet instead of refusing the file.")
    seed: int = Field(default=0, ge=0, description="Seed of draws made while reading (e.g. counterfactual tails).")


class QuestionsSettings(Frozen):
    """The multi-question data set (MQD): one form of the same events."""

    events: Literal["world", "atomic2020", "atomic2019"] = Field(default="world", description="Where the if-then events come from.")
    form: Form | Control = Field(description="Which of the three forms of the same event, or which control of the generated one.")
    writer: Literal["template"] | ModelWriterSettings = Field(default="template", description="Who words the questions.")
    limit: Count | None = Field(default=None, description="Keep this number of events, the first ones; all when omitted.")
    seed: int = Field(default=0, ge=0, description="Seed of counterfactual tails, distractors, positions and wordings.")


class TokenizerSettings(Frozen):
    """Tokenizer trained for a model that the pipeline trains."""

    kind: Literal["word", "bpe", "model"] = Field(
        default="word", description="Whole words of a closed vocabulary, byte-level BPE, or the given model's own (running text only)."
    )
    vocabulary: Count = Field(default=4096, description="Size of a BPE vocabulary (ignored for whole words).")


class CorpusSettings(Frozen):
    """Mixture of the training text; shares are counted in sentences."""

    tokenizer: TokenizerSettings = TokenizerSettings()
    tokens: Count = Field(default=1_250_000, description="Tokens of training text.")
    row: Count = Field(default=64, description="Tokens per row; rows start with BOS on a sentence boundary.")
    filler: Fraction = Field(default=0.15, description="Share of sentences (or of rows, for running text) without any fact.")
    chained: Fraction = Field(default=0.5, description="Share of fact sentences that state several facts of one subject.")
    lead_ins: Fraction = Field(default=0.3, description="Share of sentences with other words before them.")
    shares: dict[str, float] = Field(
        default={"world_qa": 1.2, "true_false": 1.3}, description="Relative weight of each data set's facts; 1 when omitted."
    )
    text_weight: Fraction = Field(default=1.0, description="Loss weight of free text.")
    prompt_weight: Fraction = Field(default=1.0, description="Loss weight of the tokens before an answer of a fact.")
    question_prompt_weight: Fraction = Field(default=0.1, description="Loss weight of the tokens of a question with options or a label.")
    answer_weight: float = Field(default=4.0, gt=0, description="Loss weight of a label answer (yes/no, letters).")
    seed: int = Field(default=0, ge=0, description="Seed of the mixture and its order.")


class PretrainSettings(Frozen):
    """Shape and training of the small causal language model."""

    layers: Count = Field(default=6, description="Transformer blocks.")
    width: Count = Field(default=192, description="Width of the residual stream.")
    mlp_width: Count = Field(default=1024, description="Width inside the MLPs; the length of a key.")
    heads: Count = Field(default=6, description="Attention heads.")
    positions: Count = Field(default=64, description="Longest context in tokens.")
    batch_rows: Count = Field(default=16, description="Rows per step.")
    muon_lr: float = Field(default=0.01, gt=0, description="Learning rate of Muon on the matrices of the blocks.")
    adam_lr: float = Field(default=4e-3, gt=0, description="Learning rate of AdamW on embeddings, norms and biases.")
    weight_decay: float = Field(default=0.1, ge=0, description="Decoupled weight decay.")
    warmup_steps: int = Field(default=50, ge=0, description="Steps over which the rates rise linearly.")
    decay_share: Fraction = Field(default=0.5, description="Last share of the steps over which the rates fall linearly to zero.")
    model_seed: int = Field(default=0, ge=0, description="Set by `model_seed` of the model.")
    checkpoint_every: Count = Field(default=200, description="Steps between checkpoints for resuming; enters no result.")


class AdoptSettings(Frozen):
    """A model that comes from elsewhere, as an artefact: where it is and how it is loaded."""

    path: str = Field(description="Local folder or hub id.")
    revision: str = Field(default="main", description="Revision on the hub.")
    dtype: Literal["float32", "bfloat16", "float16"] = Field(default="float32", description="Precision of the weights.")
    device_map: str | None = Field(default=None, description="Hugging Face device map, e.g. auto.")


class ContextsSettings(Frozen):
    """Prefixes sampled from the unedited model, so that keys and targets do not depend on one text before a prompt."""

    count: int = Field(default=3, ge=0, description="Prefixes beside the unprefixed prompt.")
    tokens: Count = Field(default=8, description="Tokens per prefix.")
    top_k: Count = Field(default=5, description="Each token is drawn from this number of likeliest ones (top-k).")
    seed: int = Field(default=1, ge=0, description="Seed of the draw.")


class MomentsSettings(Frozen):
    """Second moments of the keys over text. Layers are given as outputs (`lLAYER.json`), all computed in one pass."""

    tokens: Count = Field(default=65_536, description="Tokens of text to read.")
    batch_rows: Count = Field(default=64, description="Rows per pass through the model.")


class ObjectivesSettings(Frozen):
    """Objectives have no settings: model and facts determine them."""


class MeasureSettings(Frozen):
    """What is measured at each length."""

    sample: Count | Literal["all"] = Field(default="all", description="Cap on the facts measured per length; n is printed.")
    generate: bool = Field(default=True, description="Also let the model answer freely and compare exactly.")
    max_new_tokens: Count = Field(default=12, description="Longest free answer in tokens; longer targets extend it.")
    perplexity_rows: Count = Field(default=96, description="Rows of held-out text.")
    probes_per_fact: Count = Field(default=3, description="Largest number of neighbourhood and locality probes of each kind per fact.")


class BenchmarkSettings(Frozen):
    """Benchmark tasks run through lm-evaluation-harness."""

    tasks: Literal["world", "local", "hub"] = Field(
        default="world", description="The world's tasks, the six real ones from the data folder, or the harness's own from the hub."
    )
    limit: Count | None = Field(default=None, description="Use this number of items of each task, the first ones; all when omitted.")
    fewshot: dict[Literal["arc_challenge", "hellaswag", "mmlu", "winogrande", "gsm8k"], Annotated[int, Field(ge=0)]] = Field(
        default={}, description="Examples before a question of a real task, where not 25, 10, 5, 5 and 5 in this order."
    )

    @model_validator(mode="after")
    def _real(self) -> "BenchmarkSettings":
        if self.fewshot and self.tasks == "world":
            raise ValueError("fewshot is for `tasks: local` and `tasks: hub`; the world's tasks have no examples")
        return self


# --- the study --------------------------------------------------------------------------------------------------------


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


ModelSettings = Annotated[WorldModel | RecordsModel | HFModel, Field(discriminator="source")]


class FactsDataset(Frozen):
    """A data set of facts: the world, or records in the data folder."""

    source: str = Field(description="Name of a reader: `world`, `counterfact`, `zsre_mend`, … (see `d4s.facts.readers`).")
    style: str = Field(default="", description="Reading of the source where it has several.")
    limit: Count | None = Field(default=None, description="Keep this number of records that pass, the first ones; all when omitted.")
    skip_bad: bool = Field(default=False, description="Set broken records aside in rejects.parquet instead of refusing the file.")
    seed: int = Field(default=0, ge=0, description="Seed of draws made while reading.")


class QuestionsDataset(Frozen):
    """A data set of questions about events in one form."""

    source: Literal["questions"]
    events: Literal["world", "atomic2020", "atomic2019"] = Field(default="world", description="Where the if-then events come from.")
    form: Form | Control = Field(description="Which of the three forms of the same event, or which control of the generated one.")
    limit: Count | None = Field(default=None, description="Keep this number of events, the first ones; all when omitted.")
    seed: int = Field(default=0, ge=0, description="Seed of counterfactual tails, distractors, positions and wordings.")


class GridRow(Frozen):
    """Every combination of the named models, data sets and editors, at the same lengths."""

    models: tuple[Name, ...] = Field(min_length=1, description="Names from `models`.")
    datasets: tuple[Name, ...] = Field(min_length=1, description="Names from `datasets`.")
    editors: tuple[Name, ...] = Field(min_length=1, description="Names from `editors`, or presets.")
    lengths: tuple[Count, ...] = Field(min_length=1, description="Numbers of edits after which is measured; all come from one run.")
    benchmark: Literal["none", "longest", "all"] = Field(default="none", description="At which lengths the benchmarks run.")

    @model_validator(mode="after")
    def _distinct(self) -> "GridRow":
        for axis in ("models", "datasets", "editors", "lengths"):
            values = getattr(self, axis)
            if len(set(values)) != len(values):
                raise ValueError(f"{axis} repeats an entry: {list(values)}")
        return self


class FigureSettings(Frozen):
    """How figures are drawn."""

    format: tuple[Literal["pdf", "svg", "png"], ...] = Field(default=("pdf", "svg", "png"), description="File types of every figure.")
    dpi: Count = Field(default=200, description="Resolution of PNG files.")


class ShardSettings(Frozen):
    """Numbers of jobs that share the work on one artefact; its files are the same for any number."""

    targets: Count = Field(default=1, description="Jobs that share the blocks of targets of one request list.")
    moments: Count = Field(default=1, description="Jobs that share the layers whose moments are taken; each of them reads the text.")


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
    models: dict[Name, ModelSettings] = Field(min_length=1, description="The models by the name that the grid uses.")
    datasets: dict[Name, Dataset] = Field(min_length=1, description="The data sets by the name that the grid uses.")
    questions: AnyWriterSettings = Field(default=TemplateWriterSettings(), description="Who words the questions, and how.")
    editors: dict[Name, dict[str, Any]] = Field(
        default_factory=dict, description="Editors that are no presets already: `preset` and what differs."
    )
    grid: tuple[GridRow, ...] = Field(min_length=1, description="What is run: rows of combinations.")
    contexts: ContextsSettings = Field(default=ContextsSettings(), description="`seed` is set by `seeds`.")
    moments_tokens: Count = Field(default=65_536, description="Tokens of text behind the second moments.")
    measure: MeasureSettings = MeasureSettings()
    benchmarks: BenchmarkSettings = BenchmarkSettings()
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


def canonical(value: Any) -> str:
    """Canonical JSON text of plain settings: sorted keys, no spaces; equal settings give equal text."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
