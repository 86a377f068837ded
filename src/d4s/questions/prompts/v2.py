"""Prompts of version mqd-2: those of mqd-1, but what was wrong with an earlier answer stands in the first message.

Many servers refuse a system message that is not the first. Where nothing was wrong yet, nothing differs from mqd-1.
"""

from collections.abc import Sequence
from typing import Any

from d4s.questions.prompts import v1
from d4s.questions.prompts.v1 import Kind

VERSION = "mqd-2"


def messages(kind: Kind, facts: dict[str, str], reasons: Sequence[str]) -> list[dict[str, Any]]:
    """The conversation that asks for one question; `reasons` say why the answer before was refused."""
    system, user, *complaints = v1.messages(kind, facts, reasons)
    told = "\n\n".join(message["content"] for message in (system, *complaints))
    return [system | {"content": told}, user]
