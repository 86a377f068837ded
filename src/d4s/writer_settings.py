"""Settings of the writers, which word the questions of the multi-question data set.

Fields marked `exclude` reach the job but no hash and no manifest: they concern how answers are fetched, not what they are.
"""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

Format = Literal["json_schema", "json_object"] | None


class WriterSettings(BaseModel):
    """Parent of the writers' settings: immutable, strict about unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class TemplateWriterSettings(WriterSettings):
    """Sentence templates word the questions; no language model is used."""

    writer: Literal["template"] = Field(default="template", description="Who words the questions.")


class OpenAIWriterSettings(WriterSettings):
    """A language model behind any OpenAI-compatible server words the questions; its key is read from OPENAI_API_KEY alone."""

    writer: Literal["openai"] = Field(description="Who words the questions.")
    model: str = Field(min_length=1, description="Name of the model on the server.")
    temperature: float | None = Field(default=0.7, ge=0, le=2, description="Temperature of its answers; null leaves it to the server.")
    seed: int | None = Field(default=0, ge=0, description="Seed of the first attempt; each further attempt adds one. Null sends none.")
    attempts: int = Field(default=3, ge=1, le=10, description="Answers asked for per question before a template takes its place.")
    max_tokens: int = Field(default=800, gt=0, description="Longest answer in tokens.")
    response_format: Format = Field(
        default="json_schema",
        description="How JSON is asked for; with json_object, and with null that sends none, the prompt shows the schema.",
    )
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


class ReplayWriterSettings(WriterSettings):
    """Recorded answers word the questions; no request is sent, and missing answers are named."""

    writer: Literal["replay"] = Field(description="Who words the questions.")
    store: str = Field(exclude=True, description="The recorded answers; their content enters the hash, their place does not.")
    model: str | None = Field(default=None, description="Model whose answers are read; needed where the store holds several.")
    seed: int | None = Field(default=None, ge=0, description="Seed of the first attempts; the lowest that was recorded when omitted.")
    attempts: int = Field(default=3, ge=1, le=10, description="As it was when the answers were recorded.")


ModelWriterSettings = Annotated[OpenAIWriterSettings | ReplayWriterSettings, Field(discriminator="writer")]
AnyWriterSettings = Annotated[TemplateWriterSettings | OpenAIWriterSettings | ReplayWriterSettings, Field(discriminator="writer")]
