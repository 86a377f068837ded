"""Settings of the stages: frozen pydantic models with a description per key; unknown keys are refused.

A stage receives exactly the sub-tree it uses. The study as a whole is in `d4s.study_settings`, settings of editors are
in `d4s.editors.editor_settings`. Nothing here imports torch.
"""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from d4s.settings_base import Count, Fraction, Frozen
from d4s.writer_settings import AnyJudgeSettings, ModelWriterSettings

Control = Literal["long_predictable", "short_surprising", "uniform", "diverse"]
Form = Literal["true_false", "multiple_choice", "directly_generated"]
FORMS: tuple[Form, ...] = ("true_false", "multiple_choice", "directly_generated")
ProbeKind = Literal["efficacy", "paraphrase", "neighborhood", "unrelated", "locality", "same_subject", "portability", "text", "beliefs"]
"""What a single edit is asked: kinds of questions about its fact, the perplexity of held-out text, and what a Bayesian reader believes."""


class WorldSettings(Frozen):
    """The made-up world that the embedded model is trained on: people, their relations, if-then events, benchmark items."""

    seed: int = Field(default=0, ge=0, description="Seed of names, relations, events and benchmark items.")
    people: Count = Field(default=375, description="Number of people; each has one object per relation.")
    first_names: Count = Field(default=60, description="Distinct first names (shared by people).")
    last_names: Count = Field(default=125, description="Distinct last names (shared by people).")
    bystanders: Fraction = Field(default=0.2, description="Share of people and of events that are never edited, only probed.")
    reserve: Fraction = Field(
        default=0.0,
        exclude_if=lambda share: not share,
        description="Share of people who are neither edited nor probed; their facts are training text of editors (SAUL).",
    )
    mononyms: Fraction = Field(
        default=0.0, exclude_if=lambda share: not share, description="Share of people known by one word; the others keep their names."
    )
    events: int = Field(default=120, ge=0, description="Number of if-then event heads; each has one tail per relation.")
    benchmark_items: Count = Field(default=100, description="Items per benchmark task, at most.")

    @model_validator(mode="after")
    def _parts(self) -> "WorldSettings":
        if self.bystanders + self.reserve > 1:
            raise ValueError(f"bystanders ({self.bystanders:g}) and reserve ({self.reserve:g}) are more than all people; lower either")
        return self

    @property
    def reserved_people(self) -> int:
        """The number of people who are neither edited nor probed, the last ones."""
        return min(round(self.reserve * self.people), self.people - round(self.bystanders * self.people))


Compound = Literal["truth", "not", "and", "or"]
COMPOUNDS: tuple[Compound, ...] = ("truth", "not", "and", "or")


class BeliefsSettings(Frozen):
    """The made-up world of beliefs: a graph of subjects, relations that depend on others, and statements that hold with a probability."""

    seed: int = Field(default=0, ge=0, description="Seed of names, graph and statements.")
    subjects: Count = Field(default=400, description="Number of subjects.")
    objects: tuple[Annotated[int, Field(ge=3)], ...] = Field(
        default=(20, 20, 20, 20), min_length=2, max_length=4, description="Number of objects of each relation."
    )
    pairs: int = Field(default=2, ge=0, description="Pairs of neighbouring relations of which the second depends on the first.")
    missing: Fraction = Field(default=0.25, description="Share of facts that the graph lacks; every subject keeps two of them.")
    mode_probability: Annotated[float, Field(gt=0.5, le=1)] = Field(
        default=0.6, description="Least probability of the likeliest object: of an independent fact, and given an upstream object."
    )
    samples: Count = Field(default=20, description="Observations of every fact, and as many claims about it that are called true or false.")

    @model_validator(mode="after")
    def _paired(self) -> "BeliefsSettings":
        if 2 * self.pairs > len(self.objects):
            raise ValueError(f"{self.pairs} pairs need {2 * self.pairs} relations, found {len(self.objects)} in `objects`")
        return self


class PosteriorSettings(Frozen):
    """What the Bayesian reader reads, and how sure it is of a request afterwards."""

    statements: tuple[Compound, ...] = Field(default=COMPOUNDS, description="Statements that it reads beside observations.")
    probability: Annotated[float, Field(gt=0, lt=1)] = Field(
        default=0.95, description="Least posterior probability of a requested object; where it is higher already, half-way to 1."
    )
    sweeps: int = Field(
        default=20,
        ge=0,
        description="Times that observations are attributed again to objects upstream, by what is believed of them; 0 leaves plain shares.",
    )
    seed: int = Field(default=0, ge=0, description="Seed of the facts that are asked beside a request.")


class FactsSettings(Frozen):
    """Which records become facts."""

    source: str = Field(description="Name of a reader (see `d4s.facts.readers`).")
    style: str = Field(
        default="",
        description="Which reading of the source (zsre: `alt` or `answers`; world: `qa`, `reserve`, `events`, `labels`, `commonsense`, "
        "`nouns`).",
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
    tokens: Count = Field(default=1_500_000, description="Tokens of training text.")
    row: Count = Field(default=64, description="Tokens per row; rows start with BOS on a sentence boundary.")
    bos: Fraction = Field(
        default=1.0,
        exclude_if=lambda share: share == 1,
        description="Share of rows of mixed text that start with BOS, evenly spread; the others start with their first sentence.",
    )
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
    keep_checkpoints: int = Field(
        default=0,
        ge=0,
        exclude_if=lambda count: not count,
        description="Models kept on the way, evenly from a tenth of the training on to its end: a family of ordinary models.",
    )
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


class NoiseSettings(Frozen):
    """Gaussian noise on the embeddings of the subject's tokens; drawn by the prompt's tokens alone, so equal in every pass."""

    scale: float = Field(default=3.0, ge=0, description="Standard deviation of the noise, in the unit below.")
    unit: Literal["embedding_sd", "absolute"] = Field(
        default="embedding_sd", description="Standard deviations of the entries of the subject's own embeddings, or an absolute number."
    )
    copies: Count = Field(default=10, description="Noised copies of a prompt; probabilities are means over them.")


TokenRole = Literal["first_subject", "mid_subject", "last_subject", "after", "last"]
TOKEN_ROLES: tuple[TokenRole, ...] = ("first_subject", "mid_subject", "last_subject", "after", "last")


class TraceSettings(Frozen):
    """Causal tracing: which hidden states of the clean pass are restored in noised ones."""

    windows: tuple[Count, ...] = Field(default=(1,), min_length=1, description="Numbers of neighbouring layers restored together.")
    layers: tuple[Annotated[int, Field(ge=0)], ...] | Literal["all"] = Field(
        default="all", description="Layers that the windows are centred at."
    )
    hook: Literal["mlp_output", "block_output"] = Field(
        default="mlp_output", description="What is restored: outputs of MLPs, or of whole blocks."
    )
    tokens: tuple[TokenRole, ...] = Field(
        default=TOKEN_ROLES, min_length=1, description="Tokens that are restored, one at a time, by their place in the prompt."
    )
    noise: NoiseSettings = NoiseSettings()


class TraceJobSettings(TraceSettings):
    """Tracing of the first facts of a draw; how many are traced arrives as output (`nFACTS.json`)."""

    seed: int = Field(ge=0, description="Draw of the requests and their order.")


Problem = Literal["injection", "amplification", "reversal"]


class ProblemSettings(Frozen):
    """Which problem the facts of a data set are turned into."""

    problem: Literal["amplification", "reversal"] = Field(
        description="The true answer as target (amplification), or what the model answers to the noised prompt (reversal)."
    )
    noise: NoiseSettings | None = Field(default=None, description="The noise of the prompts, for reversal.")

    @model_validator(mode="after")
    def _noised(self) -> "ProblemSettings":
        if (self.problem == "reversal") != (self.noise is not None):
            raise ValueError("noise is for reversal, which needs it")
        return self


CaseSet = Literal["hard", "normal"]


class HardCasesSettings(Frozen):
    """Which single edits are hard cases: those that raise the perplexity of text most, and as many others beside them."""

    count: Count = Field(description="Facts of either set: the hardest ones, and for each another that leaves the model whole.")
    times: Annotated[float, Field(gt=1)] = Field(
        default=10.0, description="A model has collapsed where its perplexity (row mean) is more than this many times the unedited model's."
    )


class HardCasesJobSettings(HardCasesSettings):
    """Hard cases among the first requests of a draw."""

    requests: Count = Field(description="Requests of each cell of single edits.")


class SubsetSettings(Frozen):
    """Which facts of a data set are kept."""

    cases: CaseSet | None = Field(default=None, description="A set of the hard cases; the ids of a list where omitted.")


class StartSettings(Frozen):
    """How the texts of a model start."""

    start: Literal["none"] = Field(default="none", description="Without BOS.")


class ObjectivesSettings(Frozen):
    """Objectives have no settings: model and facts determine them."""


class FluencySettings(Frozen):
    """Texts that a model writes about edited subjects, drawn from its likeliest tokens; how varied they are, and how many run in loops."""

    every: Count = Field(default=1, description="One request in this number is written about, the first among them.")
    texts: Count = Field(default=10, description="Texts per request; the edit's own prompt and its paraphrases are continued in turn.")
    tokens: Count = Field(default=100, description="Tokens of a text, at most.")
    top_k: Count = Field(default=5, description="Each token is drawn from this number of likeliest ones (top-k).")


PromptForm = Literal["question_only", "qa_inst"]


class FreeAnswersSettings(Frozen):
    """Whole answers as a user would hear them: greedy from the raw prompt, up to the first full stop or line break."""

    every: Count = Field(default=1, description="One request in this number is asked about, the first among them.")
    prompt: PromptForm = Field(
        default="question_only", description="The prompt alone, or as a question in one line of instruction (`Q:`, `A:`)."
    )
    max_new_tokens: Count = Field(default=50, description="Longest answer in tokens.")


class JudgeSettings(Frozen):
    """Who judges free answers."""

    judge: AnyJudgeSettings


class RobustnessSettings(Frozen):
    """Shifted prompts about facts that no request edits and about edited ones, and shifted text."""

    facts: Count = Field(default=200, description="Facts that no request edits, at most, the first ones.")
    text_rows: Count = Field(default=32, description="Rows of held-out text, and as many of another text.")


class OrdinaryJobSettings(RobustnessSettings):
    """What the unedited model and those kept on the way of its training are asked."""

    seed: int = Field(ge=0, description="Draw of the requests, which are left out.")


class MemorySettings(Frozen):
    """Near misses of edits, put to every editor; where a memory's router sends prompts; how long it takes to find an entry."""

    every: Count = Field(default=1, description="One request in this number is asked about, the first among them.")
    entries: tuple[Count, ...] = Field(
        default=(10, 100, 1000, 10_000), description="Numbers of entries, the memory's own repeated, with which a query is timed."
    )
    queries: Count = Field(default=50, description="Prompts behind a time.")


class MeasureSettings(Frozen):
    """What is measured at each length."""

    sample: Count | Literal["all"] = Field(default="all", description="Cap on the facts measured per length; n is printed.")
    generate: bool = Field(default=True, description="Also let the model answer freely and compare exactly.")
    max_new_tokens: Count = Field(default=12, description="Longest free answer in tokens; longer targets extend it.")
    perplexity_rows: Count = Field(default=96, description="Rows of held-out text.")
    probes_per_fact: Count = Field(default=3, description="Largest number of neighbourhood and locality probes of each kind per fact.")
    fluency: FluencySettings | None = Field(
        default=None, exclude_if=lambda fluency: fluency is None, description="Also let the model write; nothing is written when omitted."
    )
    memory: MemorySettings | None = Field(
        default=None, exclude_if=lambda memory: memory is None, description="Also ask near misses, and memories for their entries."
    )
    free_answers: FreeAnswersSettings | None = Field(
        default=None,
        exclude_if=lambda asked: asked is None,
        description="Also ask for whole answers to raw prompts; not asked when omitted.",
    )


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
