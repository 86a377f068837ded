"""Which key stands for a request at a layer; `keys.py` reads it, the loop says when."""

from collections.abc import Iterator
from typing import Literal

from pydantic import Field

from d4s.editors.parts.part import Choice
from d4s.settings_base import Count, Frozen

READING, LOOP = "d4s.editors.keys", "d4s.editors.locate_then_edit"
SHARED_KEY = Choice(
    "keys.shared_key", "true", "the averaged key in the denominator too; the target counts from the averaged output", READING
)
CONTEXT = Choice(
    "keys.context",
    "preserved",
    "*A₀* of a step also has *K_pᵀ K_p*, with the keys *K_p* of all tokens of prompt and answer that are not looked up",
    READING,
    "context kept",
)
CHOICES = {
    (choice.name, choice.kind): choice
    for choice in (
        Choice("keys.average", "grouped", "*k = ½ k(unprefixed prompt) + ½ mean k(prefixed prompts)*", READING),
        Choice("keys.average", "plain", "*k = mean k* over all prompts", READING),
        Choice("keys.average", "unprefixed", "*k = k(unprefixed prompt)*", READING),
        Choice("keys.mode", "progressive", "keys of a layer are read with the layers below already edited", LOOP),
        Choice("keys.mode", "frozen", "keys are read on the unedited model", LOOP, "frozen keys"),
        Choice("keys.mode", "refreshed", "as progressive; from time to time those of all edits are read again", LOOP, "refreshed keys"),
        SHARED_KEY,
        CONTEXT,
    )
}


class KeySettings(Frozen):
    """Which key stands for a request at a layer."""

    average: Literal["grouped", "plain", "unprefixed"] = Field(
        default="grouped",
        description="Half the unprefixed prompt's key and half the mean of the prefixed ones (MEMIT), the mean of all (ROME), or the "
        "unprefixed one.",
    )
    mode: Literal["progressive", "frozen", "refreshed"] = Field(
        default="progressive",
        description="Read keys with the layers below already edited, always at the original weights, or read those of all edits so far "
        "again from time to time.",
    )
    every: Count = Field(default=50, description="With mode `refreshed`: steps, each of a batch of requests, between two such readings.")
    shared_key: bool = Field(
        default=False,
        description="With solver `hard_constraint`: meet the target at the averaged key, from where the averaged output is now (R-ROME), "
        "not at the unprefixed prompt's.",
    )
    context: bool = Field(
        default=False,
        exclude_if=lambda found: not found,
        description="Also preserve, in the step that edits a request, the keys of all other tokens of its prompt and answer (AnyEdit).",
    )

    def choices(self) -> Iterator[Choice]:
        """The rule's choices, with their formulas."""
        yield CHOICES["keys.average", self.average]
        yield CHOICES["keys.mode", self.mode]
        if self.shared_key:
            yield SHARED_KEY
        if self.context:
            yield CONTEXT
