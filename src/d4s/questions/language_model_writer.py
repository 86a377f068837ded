"""A writer whose questions are worded by a language model, live or from recorded answers.

Targets, labels, letters, positions and the counterfactual stay those of the template writer, so that forms remain balanced
and comparable; the model gives wordings and, where options are offered, two of the three wrong ones. Its answers are
parsed and checked; a bad answer is requested again with the reasons, and in the end a template takes its place. Where templates
would take the place of all, the work ends instead.
"""

import asyncio
import logging
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from d4s.config import Form, QuestionsSettings
from d4s.errors import D4SError, MissingAnswersError, SettingsError
from d4s.questions.answers import AnswerStore, key_of
from d4s.questions.api_client import MAX_CONSECUTIVE_FAILURES, AnswerSource, open_api_client, open_recorded_answers
from d4s.questions.draft_checks import draft_issues
from d4s.questions.event_templates import EVENT_TEMPLATES, LETTERS, MULTIPLE_CHOICE_CUE, NO, TRUE_FALSE_CUE, YES, format_options
from d4s.questions.prompts import v1, v2, v3
from d4s.questions.prompts.v1 import Kind
from d4s.questions.question_items import Item
from d4s.questions.replies import Choices, ModelAnswer, Statements, Wordings, parse_answer, response_format
from d4s.questions.writers import Draft, TemplateWriter, Writer
from d4s.writer_settings import Format, OpenAIWriterSettings, ReplayWriterSettings

logger = logging.getLogger(__name__)
REASONS, REASON_LENGTH = 5, 160
SourceContext = Callable[[], AbstractAsyncContextManager[AnswerSource]]


@runtime_checkable
class PromptVersion(Protocol):
    """A version of the prompts, as a module of `d4s.questions.prompts`."""

    @property
    def VERSION(self) -> str:
        """Name of the version."""
        ...

    def messages(self, kind: Kind, facts: dict[str, str], reasons: Sequence[str]) -> list[dict[str, Any]]:
        """The messages that request one question; `reasons` say why the previous answer was refused."""
        ...


@dataclass(frozen=True, slots=True)
class RequestSettings:
    """The parts of a request that do not depend on the item: the model and its parameters."""

    model: str
    temperature: float | None
    max_tokens: int
    response_format: Format
    seed: int
    attempts: int


def openai_writer(settings: QuestionsSettings) -> Writer:
    """A writer that requests from a server the answers that the store lacks.

    Raises:
        SettingsError: if the settings are those of another writer.
    """
    chosen = settings.writer
    if not isinstance(chosen, OpenAIWriterSettings):
        raise SettingsError(f"the writer 'openai' needs settings of its own, found {chosen!r}")
    return LanguageModelWriter("openai", live_request_settings(chosen), settings.seed, lambda: open_api_client(chosen))


def replay_writer(settings: QuestionsSettings) -> Writer:
    """A writer that uses recorded answers only.

    Raises:
        SettingsError: if the settings are those of another writer, or the store does not exist.
    """
    chosen = settings.writer
    if not isinstance(chosen, ReplayWriterSettings):
        raise SettingsError(f"the writer 'replay' needs settings of its own, found {chosen!r}")
    if not Path(chosen.store).is_file():
        raise SettingsError(f"the store of recorded answers {chosen.store} does not exist; set `store` to one")
    store = AnswerStore(Path(chosen.store))
    return LanguageModelWriter("replay", recorded_request_settings(store, chosen), settings.seed, lambda: open_recorded_answers(store))


def live_request_settings(settings: OpenAIWriterSettings) -> RequestSettings:
    """The parts that live settings give to every request."""
    return RequestSettings(
        settings.model, settings.temperature, settings.max_tokens, settings.response_format, settings.seed or 0, settings.attempts
    )


def recorded_request_settings(store: AnswerStore, settings: ReplayWriterSettings) -> RequestSettings:
    """The parts that all recorded requests share.

    Raises:
        SettingsError: if the store holds answers of several models, or none of the named model.
    """
    requests = [record.request for record in store.records.values()]
    found = {_settings_in(request, settings.attempts) for request in requests}
    fitting = [request_settings for request_settings in found if settings.model in {None, request_settings.model}]
    if len(fitting) != 1:
        held = "; ".join(map(_describe_settings, sorted(found, key=_describe_settings))) or "none"
        remedy = "set `model`" if len({request_settings.model for request_settings in found}) > 1 else "keep each way in a store of its own"
        raise SettingsError(f"{store.path} must hold answers of one model as asked in one way; {remedy}. It holds: {held}")
    lowest = min(request["seed"] for request in requests if request["model"] == fitting[0].model)
    return replace(fitting[0], seed=lowest if settings.seed is None else settings.seed)


def _settings_in(request: Mapping[str, Any], attempts: int) -> RequestSettings:
    """The parts of a recorded request that are the same for every request, whatever its seed."""
    wanted = request.get("response_format", {}).get("type")
    return RequestSettings(request["model"], request.get("temperature"), request["max_completion_tokens"], wanted, 0, attempts)


def _describe_settings(request_settings: RequestSettings) -> str:
    return (
        f"model {request_settings.model!r}, temperature {request_settings.temperature}, max_tokens {request_settings.max_tokens}, "
        f"response_format {request_settings.response_format}"
    )


class LanguageModelWriter:
    """Words items by a language model's answers; one template per event and form is the fallback and gives the targets."""

    def __init__(self, name: str, request_settings: RequestSettings, seed: int, source_context: SourceContext) -> None:
        self.name = name
        self.usage: Mapping[str, Mapping[str, int]] = {}
        self._request_settings, self._source_context = request_settings, source_context
        self._prompts: PromptVersion = v1 if request_settings.response_format == "json_schema" else v3
        self._templates = TemplateWriter(seed)

    def write(self, items: Sequence[Item], form: Form) -> list[Draft]:
        """One draft per item, in order.

        Raises:
            MissingAnswersError: if answers are missing and no server is used; names all first ones missing.
            D4SError: if no answer about any item can be used.
        """
        usage: Counter[str] = Counter(items=len(items))
        self.usage = {**self.usage, form: usage}
        drafts = asyncio.run(self._write(items, form, usage))
        if usage["fallbacks"]:
            logger.warning(
                "%s, %s: templates take the place of answers for %d of %d items", self.name, form, usage["fallbacks"], len(items)
            )
        logger.info("%s, %s: %s", self.name, form, ", ".join(f"{name} {count}" for name, count in sorted(usage.items())))
        return drafts

    def first_requests(self, items: Sequence[Item], form: Form) -> list[dict[str, Any]]:
        """The first request about each item."""
        bases = self._templates.write(items, form)
        return [self._request(item, base, 0) for item, base in zip(items, bases, strict=True)]

    async def _write(self, items: Sequence[Item], form: Form, usage: Counter[str]) -> list[Draft]:
        """One draft per item; usage is counted even if it raises.

        Raises:
            MissingAnswersError: if answers are missing and no server is used.
            D4SError: if no answer about any item can be used.
        """
        bases = self._templates.write(items, form)
        async with self._source_context() as source:
            tasks = [self._draft(source, item, base, usage) for item, base in zip(items, bases, strict=True)]
            try:
                drafts = await asyncio.gather(*tasks)
            finally:
                usage.update(source.usage)
        missing = [draft for draft in drafts if isinstance(draft, str)]
        if missing:
            raise MissingAnswersError(missing)
        whole = [draft for draft in drafts if isinstance(draft, Draft)]
        if whole and usage["fallbacks"] == len(items):
            raise self._unusable(usage["answers"], [whole[-1].fell_back])
        return whole

    async def _draft(self, source: AnswerSource, item: Item, base: Draft, usage: Counter[str]) -> Draft | str:
        """The draft of an item, or the key of the answer that it lacks."""
        told: list[str] = []
        reasons: list[str] = []
        answer, tried = ModelAnswer(), 0
        for attempt in range(self._request_settings.attempts):
            version, request = self._attempt(source, item, base, attempt, told)
            found = await source.ask(request, item.event_id)
            answer, tried = found or answer, attempt + 1
            if found is None:
                return f"{item.event_id} {base.form} attempt {tried}: {key_of(request)}"
            usage.update(answers=1, tokens_in=answer.tokens_in, tokens_out=answer.tokens_out)
            draft, reasons = draft_from_answer(item, base, answer)
            if draft and not reasons:
                return replace(draft, writer=self.name, prompt_version=version, response_sha256=answer.sha256, attempts=tried)
            usage["refused"] += 1
            if source.usage["calls"] and usage["refused"] == usage["answers"] >= MAX_CONSECUTIVE_FAILURES:
                raise self._unusable(usage["answers"], reasons)
            if answer.other_field and answer.failure in told:
                break  # the reason was given once; a server that puts answers there does so every time
            told = _brief(reasons) if answer.content or answer.other_field else []
        usage["fallbacks"] += 1
        return replace(base, response_sha256=answer.sha256, attempts=tried, fell_back="; ".join(_brief(reasons)))

    def _unusable(self, answers: int, reasons: Sequence[str]) -> D4SError:
        return D4SError(
            f"none of {answers} answers of {self._request_settings.model!r} can be used, "
            f"the last because of: {'; '.join(_brief(reasons))}; "
            "they are kept, so that the same command gives the same: set another `model`, `response_format`, `max_tokens` or `temperature`"
        )

    def _attempt(self, source: AnswerSource, item: Item, base: Draft, attempt: int, reasons: Sequence[str]) -> tuple[str, dict[str, Any]]:
        """The next request, and its prompt version: the second only where reasons are given and the first's answer is not recorded."""
        first = self._request(item, base, attempt, reasons)
        if not reasons or self._prompts is not v1 or source.has_answer(first):
            return self._prompts.VERSION, first
        return v2.VERSION, self._request(item, base, attempt, reasons, v2)

    def _request(
        self, item: Item, base: Draft, attempt: int, reasons: Sequence[str] = (), prompts: PromptVersion | None = None
    ) -> dict[str, Any]:
        kind = kind_of(base)
        request = {
            "model": self._request_settings.model,
            "messages": (prompts or self._prompts).messages(kind, _facts(item, base, kind), reasons),
            "seed": self._request_settings.seed + attempt,
            "max_completion_tokens": self._request_settings.max_tokens,
            **response_format(kind, self._request_settings.response_format),
        }
        return request if self._request_settings.temperature is None else request | {"temperature": self._request_settings.temperature}


def kind_of(draft: Draft) -> Kind:
    """The kind of answer that a draft's question has."""
    if draft.target_true in {YES, NO}:
        return "yes_no"
    return "choice" if draft.target_true in LETTERS else "phrase"


def draft_from_answer(item: Item, base: Draft, answer: ModelAnswer) -> tuple[Draft | None, list[str]]:
    """The template's draft in the words of an answer, and all its issues."""
    reply, reasons = parse_answer(kind_of(base), answer.content)
    if reply is None:
        return None, [answer.failure] if answer.failure else reasons
    draft = _fill_draft(item, base, reply)
    return draft, draft_issues(item, draft)


def _fill_draft(item: Item, base: Draft, reply: Wordings | Statements) -> Draft:
    options = _fill_options(item, reply.distractors) if isinstance(reply, Choices) else ()
    end = _cue(base, options)

    def template(text: str) -> str:
        return " ".join(text.split()).replace("{tail}", item.stated_tail) + end

    return replace(
        base,
        template=template(reply.question),
        paraphrases=tuple(map(template, reply.paraphrases)),
        wordings=tuple(map(template, reply.wordings)),
        options=options,
    )


def _cue(base: Draft, options: Sequence[str]) -> str:
    """What follows the words of an answer, so that the target is the next token."""
    if options:
        return f" {format_options(options)}. {MULTIPLE_CHOICE_CUE}"
    return f" {TRUE_FALSE_CUE}" if kind_of(base) == "yes_no" else ""


def _fill_options(item: Item, distractors: Iterable[str]) -> tuple[str, ...]:
    """The item's options with others in place of those that are neither right nor the edit's target."""
    more = iter(distractors)
    kept = {item.answer, item.counterfactual}
    return tuple(option if place in kept else " ".join(next(more).split()) for place, option in enumerate(item.options))


def _facts(item: Item, base: Draft, kind: Kind) -> dict[str, str]:
    """What the model is given about an item; for a statement, not whether it is true."""
    told = {"event": item.head, "relation": item.relation, "told_as": EVENT_TEMPLATES[item.relation].claim}
    if kind == "yes_no":
        return told | {"answer": item.stated_tail}
    if kind == "choice":
        return told | {"answer": item.tail, "other": item.new_tail}
    return told | {"answer": base.target_true, "other": base.target_new}


def _brief(reasons: Sequence[str]) -> list[str]:
    return [reason if len(reason) <= REASON_LENGTH else f"{reason[:REASON_LENGTH]}..." for reason in reasons[:REASONS]]
