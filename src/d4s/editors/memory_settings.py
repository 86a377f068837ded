"""The settings of editors with a memory of texts (SERAC, editing in context), with the memory and work that their steps take."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field, model_validator

from d4s.editors.constants import ANSWER_TOKENS
from d4s.editors.family_settings import SINGLE, Family, ModelPasses
from d4s.editors.parts.input_settings import DemonstrationPoolSettings, PrepareSettings
from d4s.editors.parts.part import Positive
from d4s.editors.parts.part_families import InputKind
from d4s.editors.parts.scope_settings import HashedEncoder, HiddenEncoder, ScopeSettings, TrainedAnswer
from d4s.settings_base import Count, Frozen

if TYPE_CHECKING:
    from d4s.models.model_shape import Shape

TEXT_BYTES = 200  # of a prompt and a target


class Serac(Family, ScopeSettings):
    """A memory of edits as texts, a router that finds the entry in whose scope a prompt is, and a model that answers there."""

    family: Literal["serac"] = "serac"
    scope: Literal["learned", "true"] = Field(
        default="learned", description="The router's scopes, or those that the data set's own prompts and paraphrases tell (an oracle)."
    )
    switch: Literal["hard", "soft"] = Field(
        default="hard", description="One model answers a prompt, or both, mixed by the similarity of the nearest entry."
    )
    batch: Literal[1] = Field(default=1, description="Requests per step; each is an entry.")

    @property
    def layers(self) -> tuple[int, ...]:
        """No layer changes."""
        return ()

    @property
    def required_inputs(self) -> frozenset[InputKind]:
        """The trained router and, if trained, the model that answers."""
        return frozenset({"prepare"})

    def prepare_settings(self) -> PrepareSettings:
        """What is trained, which no switch and no oracle changes."""
        return PrepareSettings(scope=ScopeSettings(**{name: getattr(self, name) for name in ScopeSettings.model_fields}))

    # --- memory and work ----------------------------------------------------------------------------------------------

    @property
    def is_beside_model(self) -> bool:
        """Yes: entries answer, and no weight changes."""
        return True

    @property
    def raises_target(self) -> bool:
        """No: another model answers, so that success says nothing about the model."""
        return False

    def edit_passes(self, shape: "Shape", edits: int, wordings: int, tokens: int) -> Sequence[ModelPasses]:
        """The prompt is encoded, and its target scored twice."""
        return (ModelPasses(2.0 * tokens + ANSWER_TOKENS, 1, 3.0 * edits),)

    def view_bytes(self, shape: "Shape", item: int) -> dict[str, float]:
        """The model that answers, if it is one of its own."""
        return {"state": float(shape.parameters * item) if isinstance(self.answer, TrainedAnswer) else 0.0}

    def held_bytes(self, shape: "Shape", item: int, edits: int) -> dict[str, float]:
        """The model that answers, and the entries."""
        return {"state": self.view_bytes(shape, item)["state"] + self.ledger_bytes(shape, edits)}

    def ledger_bytes(self, shape: "Shape", edits: int) -> float:
        """Texts and an embedding per edit."""
        return float(edits * (TEXT_BYTES + SINGLE * self.width))


class Bm25(Frozen):
    """BM25 over the tokens of prompts; needs no model."""

    kind: Literal["bm25"] = "bm25"
    k1: Positive = Field(default=1.2, description="How soon more of the same token counts no more.")
    b: float = Field(default=0.75, ge=0, le=1, description="How much the length of an edit's prompt counts.")


class Demonstrations(Frozen):
    """Made-up edits of other facts before an edit, each with a prompt that is answered as it should be then (IKE)."""

    count: int = Field(default=32, ge=0, description="Demonstrations before an edit, at most; without room the farthest are left out.")
    copies: int = Field(default=1, ge=0, description="Share of those whose prompt is the demonstrated edit's own.")
    updates: int = Field(default=3, ge=0, description="Share of those whose prompt is another wording of it.")
    retains: int = Field(default=4, ge=0, description="Share of those whose prompt is about a neighbour, and whose answer stays.")
    own: bool = Field(default=True, description="Between the demonstrations and the prompt the edit itself stands as a copy.")
    separator: str = Field(default="\n\n", description="What ends a demonstration.")
    facts: Count = Field(default=400, description="Facts to choose from, at most, the first ones in an order by their ids.")
    seed: int = Field(default=0, ge=0, description="Seed of wordings and neighbours, and of the order of kinds.")

    @model_validator(mode="after")
    def _has_kinds(self) -> "Demonstrations":
        if not self.copies + self.updates + self.retains:
            raise ValueError("copies, updates and retains are all 0, so no demonstration has a kind; give one of them a share")
        return self


class InContext(Family):
    """A memory of edits as texts, of which those nearest to a prompt are put before it."""

    family: Literal["in_context"] = "in_context"
    retriever: Annotated[Bm25 | HiddenEncoder | HashedEncoder, Field(discriminator="kind")] = Field(
        default=Bm25(), description="How prompts are compared: BM25, or the cosine of an encoder's vectors."
    )
    k: Count = Field(default=1, description="Edits before a prompt, at most.")
    threshold: float | None = Field(
        default=0.5, description="Similarity above which an edit is put before a prompt (1 for its own); null puts the nearest before all."
    )
    confirm: bool = Field(default=False, description="Only edits of which the model says that they answer the prompt.")
    context: str = Field(default="{prompt} {target}. ", description="What an edit is before a prompt.")
    demonstrations: Demonstrations | None = Field(default=None, description="What stands before the edits (IKE); null: nothing.")
    batch: Literal[1] = Field(default=1, description="Requests per step; each is an entry.")

    @property
    def layers(self) -> tuple[int, ...]:
        """No layer changes."""
        return ()

    @property
    def required_inputs(self) -> frozenset[InputKind]:
        """The facts that demonstrations are about."""
        return frozenset() if self.demonstrations is None else frozenset({"prepare"})

    def prepare_settings(self) -> PrepareSettings | None:
        """The pool of demonstrations, which neither their number nor their kinds change."""
        if self.demonstrations is None:
            return None
        return PrepareSettings(demonstrations=DemonstrationPoolSettings(facts=self.demonstrations.facts, seed=self.demonstrations.seed))

    # --- memory and work ----------------------------------------------------------------------------------------------

    @property
    def is_beside_model(self) -> bool:
        """Yes: edits stand before prompts, and no weight changes."""
        return True

    @property
    def raises_target(self) -> bool:
        """No: an edit acts as far as the model reads its context, so that success says nothing about the model's knowledge."""
        return False

    def edit_passes(self, shape: "Shape", edits: int, wordings: int, tokens: int) -> Sequence[ModelPasses]:
        """The target is scored behind up to `k` edits and their demonstrations, twice, and they are confirmed."""
        demonstrated = 0 if self.demonstrations is None else self.demonstrations.count + self.demonstrations.own
        behind = min((self.k + 1.0 + 2.0 * demonstrated) * tokens + ANSWER_TOKENS, float(shape.positions))
        asked = 2.0 * self.k * (3.0 * tokens) if self.confirm else 0.0
        return (ModelPasses(behind + asked, 1, 2.0 * edits),)

    def held_bytes(self, shape: "Shape", item: int, edits: int) -> dict[str, float]:
        """The entries."""
        return {"state": self.ledger_bytes(shape, edits)}

    def ledger_bytes(self, shape: "Shape", edits: int) -> float:
        """Texts and, where edits are compared by vectors, a vector per edit."""
        width = {"bm25": 0, "hidden": shape.width, "hashed": getattr(self.retriever, "buckets", 0)}[self.retriever.kind]
        return float(edits * (TEXT_BYTES + SINGLE * width))
