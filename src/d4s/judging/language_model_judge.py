"""A judge that is a language model, live or from recorded answers, through the client and the store of the question writer.

A verdict is one letter. Anything else, and a request that the server refused for good, is no verdict: it stays missing, with the
reason, and nothing takes its place.
"""

import asyncio
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

from d4s.config import JudgeSettings
from d4s.errors import MissingAnswersError, SettingsError
from d4s.judging.judges import JudgedAnswer, Verdict
from d4s.judging.prompts import v1
from d4s.questions.answers import AnswerStore, key_of
from d4s.questions.api_client import AnswerSource, open_api_client, open_recorded_answers
from d4s.questions.question_facts import COST_COLUMNS
from d4s.questions.replies import ModelAnswer
from d4s.writer_settings import OpenAIJudgeSettings, ReplayJudgeSettings

MAX_SHOWN_CHARACTERS = 60
SourceContext = Callable[[], AbstractAsyncContextManager[AnswerSource]]


def openai_judge(settings: JudgeSettings) -> "LanguageModelJudge":
    """A judge that requests from a server the answers that the store lacks.

    Raises:
        SettingsError: if the settings are those of another judge.
    """
    chosen = settings.judge
    if not isinstance(chosen, OpenAIJudgeSettings):
        raise SettingsError(f"the judge 'openai' needs settings of its own, found {chosen!r}")
    return LanguageModelJudge(chosen, lambda: open_api_client(chosen))


def replay_judge(settings: JudgeSettings) -> "LanguageModelJudge":
    """A judge that uses recorded answers only.

    Raises:
        SettingsError: if the settings are those of another judge, or the store does not exist.
    """
    chosen = settings.judge
    if not isinstance(chosen, ReplayJudgeSettings):
        raise SettingsError(f"the judge 'replay' needs settings of its own, found {chosen!r}")
    if not Path(chosen.store).is_file():
        raise SettingsError(f"the store of recorded answers {chosen.store} does not exist; set `store` to one")
    store = AnswerStore(Path(chosen.store))
    return LanguageModelJudge(chosen, lambda: open_recorded_answers(store))


class LanguageModelJudge:
    """Asks a language model for a letter about each answer; equal questions are asked once."""

    version = v1.VERSION

    def __init__(self, settings: OpenAIJudgeSettings | ReplayJudgeSettings, source_context: SourceContext) -> None:
        self.name = settings.model
        self._settings, self._source_context, self._spent = settings, source_context, Counter[str]()

    @property
    def usage(self) -> Mapping[str, int]:
        """Requests and tokens so far, by the columns of costs."""
        return {column: self._spent[name] for column, name in COST_COLUMNS.items() if self._spent[name]}

    def judge(self, answers: Sequence[JudgedAnswer]) -> list[Verdict]:
        """One verdict per answer, in order.

        Raises:
            MissingAnswersError: if answers are missing and no server is used; names all of them.
        """
        return asyncio.run(self._judge(answers))

    def request(self, answer: JudgedAnswer) -> dict[str, Any]:
        """The request about one answer."""
        request = {
            "model": self._settings.model,
            "messages": v1.messages(answer.question, answer.target, answer.answer),
            "seed": self._settings.seed or 0,
            "max_completion_tokens": self._settings.max_tokens,
        }
        return request if self._settings.temperature is None else request | {"temperature": self._settings.temperature}

    async def _judge(self, answers: Sequence[JudgedAnswer]) -> list[Verdict]:
        requests = [self.request(one) for one in answers]
        async with self._source_context() as source:
            try:
                replies = await asyncio.gather(*(source.ask(asked, one.name) for asked, one in zip(requests, answers, strict=True)))
            finally:
                self._spent.update(source.usage)
        missing = [f"{one.name}: {key_of(asked)}" for asked, one, reply in zip(requests, answers, replies, strict=True) if reply is None]
        if missing:
            raise MissingAnswersError(missing)
        return [verdict_of(reply) for reply in replies if reply is not None]


def verdict_of(reply: ModelAnswer) -> Verdict:
    """The verdict in a reply: that of its one letter, or none."""
    if reply.failure:
        return Verdict(None, reply.failure)
    letter = reply.content.strip()
    if letter in v1.VERDICTS:
        return Verdict(v1.VERDICTS[letter])
    shown = letter if len(letter) <= MAX_SHOWN_CHARACTERS else f"{letter[:MAX_SHOWN_CHARACTERS]}..."
    return Verdict(None, f"expected one of the letters {', '.join(v1.VERDICTS)}, found {shown!r}")
