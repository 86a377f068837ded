"""Prompts of version mqd-3: those of mqd-2, with the schema in the first message, for servers that are given none."""

from collections.abc import Sequence
from typing import Any

from d4s.questions.prompts import v2
from d4s.questions.prompts.v1 import Kind

VERSION = "mqd-3"

SCHEMA = """\
The schema is {{"question": TEXT, "paraphrases": [TEXT, TEXT], "wordings": [TEXT, TEXT, TEXT]{more}}}. Each TEXT is a JSON string \
of plain letters, digits and simple punctuation. Answer with this one JSON object alone: no other keys, nothing before or after it."""
MORE: dict[Kind, str] = {"phrase": "", "yes_no": "", "choice": ', "distractors": [TEXT, TEXT]'}


def messages(kind: Kind, facts: dict[str, str], reasons: Sequence[str]) -> list[dict[str, Any]]:
    """The conversation that asks for one question; `reasons` say why the answer before was refused."""
    system, user = v2.messages(kind, facts, reasons)
    return [system | {"content": f"{system['content']}\n\n{SCHEMA.format(more=MORE[kind])}"}, user]
