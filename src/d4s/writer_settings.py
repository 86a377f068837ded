"""Settings of the writers, which word the questions of the multi-question data set, and of the judges of free answers.

Fields marked `exclude` reach the job but no hash and no manifest: they concern how answers are fetched, not what they are.
"""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

Format = Literal["json_schema", "json_object"] | None


class WriterSettings(BaseModel):
    """Parent of these settings: immutable, strict about unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class TemplateWriterSettings(WriterSettings):
    """Sentence templates word the questions; no language model is used."""

    writer: Literal["template"] = Field(default="template", description="Who words the questions.")


class ServerSettings(WriterSettings):
    """A model behind any OpenAI-compatible server, and how it is asked; its key is read from OPENAI_API_KEY alone."""

    model: str = Field(min_length=1, description="Name of the model on the server.")
    temperature: float | None = Field(default=0.7, ge=0, le=2, description="Temperature of its answers; null leaves it to the server.")
    seed: int | None = Field(default=0, ge=0, description="Seed of the first attempt; each further attempt adds one. Null sends none.")
    max_tokens: int = Field(default=800, gt=0, description="Longest answer in tokens.")
    max_tokens_name: Literal["max_completion_tokens", "max_tokens"] = Field(
        default="max_completion_tokens", exclude=True, description="What the server calls the limit `max_tokens`; enters no hash."
    )
    base_url: str = Field(
        default="https://api.openai.com/v1", pattern=r"^https?://[^@\s]+$", exclude=True, description="The server; enters no hash."
    )
    store: str = Field(default="results/answers.jsonl", exclude=True, description="Where every answer is kept; enters no hash.")
    concurrency: int = Field(default=16, gt=0, exclude=True, description="Requests in flight at once; enters no hash.")
    requests_per_minute: float | None = Field(default=500.0, gt=0, exclude=True, description="Pace; null sets none. Enters no hash.")
    timeout_s: float = Field(default=60.0, gt=0, exclude=True, description="Longest wait for one answer; enters no hash.")
    retries: int = Field(default=5, ge=0, exclude=True, description="Repetitions of a request that the server fails; enters no hash.")


class OpenAIWriterSettings(ServerSettings):
    """A language model behind any OpenAI-compatible server words the questions; its key is read from OPENAI_API_KEY alone."""

    writer: Literal["openai"] = Field(description="Who words the questions.")
    attempts: int = Field(default=3, ge=1, le=10, description="Answers asked for per question before a template takes its place.")
    response_format: Format = Field(
        default="json_schema",
        description="How JSON is asked for; with json_object, and with null that sends none, the prompt shows the schema.",
    )


class ReplayWriterSettings(WriterSettings):
    """Recorded answers word the questions; no request is sent, and missing answers are named."""

    writer: Literal["replay"] = Field(description="Who words the questions.")
    store: str = Field(exclude=True, description="The recorded answers; their content enters the hash, their place does not.")
    model: str | None = Field(default=None, description="Model whose answers are read; needed where the store holds several.")
    seed: int | None = Field(default=None, ge=0, description="Seed of the first attempts; the lowest that was recorded when omitted.")
    attempts: int = Field(default=3, ge=1, le=10, description="As it was when the answers were recorded.")


ModelWriterSettings = Annotated[OpenAIWriterSettings | ReplayWriterSettings, Field(discriminator="writer")]
AnyWriterSettings = Annotated[TemplateWriterSettings | OpenAIWriterSettings | ReplayWriterSettings, Field(discriminator="writer")]


class StandInJudgeSettings(WriterSettings):
    """A rule in the place of a judge, without a language model: the target's words stand in the answer, which does not repeat itself."""

    judge: Literal["stand_in"] = Field(description="Who judges free answers.")


class OpenAIJudgeSettings(ServerSettings):
    """A language model behind any OpenAI-compatible server judges free answers; its key is read from OPENAI_API_KEY alone."""

    judge: Literal["openai"] = Field(description="Who judges free answers.")
    temperature: float | None = Field(default=0.0, ge=0, le=2, description="Temperature of its verdicts; null leaves it to the server.")
    seed: int | None = Field(default=0, ge=0, description="Seed of its verdicts. Null sends none.")
    max_tokens: int = Field(default=16, gt=0, description="Longest verdict in tokens; a model that reasons first needs many.")


class RecordedJudgeSettings(WriterSettings):
    """Verdicts in a file."""

    store: str = Field(exclude=True, description="The file; its content enters the hash, its place does not.")


class ReplayJudgeSettings(RecordedJudgeSettings):
    """Recorded verdicts of a language model; no request is sent, and missing answers are named."""

    judge: Literal["replay"] = Field(description="Who judges free answers.")
    model: str = Field(min_length=1, description="Name of the model whose verdicts are read.")
    temperature: float | None = Field(default=0.0, ge=0, le=2, description="As it was when the verdicts were recorded.")
    seed: int | None = Field(default=0, ge=0, description="As it was when the verdicts were recorded.")
    max_tokens: int = Field(default=16, gt=0, description="As it was when the verdicts were recorded.")


class VerdictFileSettings(RecordedJudgeSettings):
    """Verdicts that people, or a program of another's, wrote into the file of `d4s verdicts`; what has none stays without."""

    judge: Literal["file"] = Field(description="Who judges free answers.")
    name: str = Field(min_length=1, description="Who judged, as tables are to say it.")
    version: str = Field(min_length=1, description="Version of what the judge was told.")


AnyJudgeSettings = Annotated[
    StandInJudgeSettings | OpenAIJudgeSettings | ReplayJudgeSettings | VerdictFileSettings, Field(discriminator="judge")
]
