"""What an edit is in the scope of, and who answers there: settings of SERAC's router and counterfactual model, and of their training."""

from typing import Annotated, Literal

from pydantic import Field

from d4s.editors.parts.part import Positive
from d4s.settings_base import Count, Frozen


class HiddenEncoder(Frozen):
    """Hidden states of the model itself: at a block's output, over the tokens of a prompt without BOS."""

    kind: Literal["hidden"] = "hidden"
    layer: int = Field(ge=0, description="Block whose output is read.")
    pool: Literal["mean", "last"] = Field(default="mean", description="Mean over the tokens of the prompt, or its last token.")


class HashedEncoder(Frozen):
    """Counts of n-grams of words in buckets, as a vector of length 1; needs no model."""

    kind: Literal["hashed"] = "hashed"
    n: tuple[Count, ...] = Field(default=(1, 2), min_length=1, description="Lengths of the n-grams, in words.")
    buckets: Count = Field(default=4096, description="Number of buckets.")


class FolderEncoder(Frozen):
    """A sentence encoder in a local folder: the mean of its last hidden states."""

    kind: Literal["folder"] = "folder"
    path: str = Field(description="Folder with configuration, tokenizer and safetensors.")


Encoder = Annotated[HiddenEncoder | HashedEncoder | FolderEncoder, Field(discriminator="kind")]


class ContextAnswer(Frozen):
    """The model itself answers, with the edit in its context."""

    kind: Literal["base"] = "base"


class TrainedAnswer(Frozen):
    """A model trained to read answers from its context: edits with random targets before other wordings of their prompts."""

    kind: Literal["trained"] = "trained"
    start: str = Field(
        default="base", description="Where its weights begin: the model itself (`base`), or a folder with the same tokenizer."
    )
    steps: Count = Field(default=600, description="Steps of AdamW.")
    lr: Positive = Field(default=1e-3, description="Largest learning rate, which rises over a twentieth of the steps and falls to zero.")
    rows: Count = Field(default=16, description="Texts per step.")


Answer = Annotated[ContextAnswer | TrainedAnswer, Field(discriminator="kind")]


class ScopeSettings(Frozen):
    """A router and, if trained, a counterfactual model, both trained on facts that nothing is measured of."""

    encoder: Encoder = Field(description="What a prompt is, before the trained map.")
    width: Count = Field(default=64, description="Width of the embeddings that the map gives.")
    scale: Literal["trained"] | Positive = Field(
        default="trained", description="Factor of the squared distance in the similarity exp(− scale · ‖a − b‖²); released: 1."
    )
    threshold: float = Field(default=0.5, description="Similarity above which a prompt is in the scope of its nearest entry.")
    near_misses: bool = Field(
        default=True,
        description="Half of the negatives are prompts about another relation of the subject, or about a name that shares a part.",
    )
    facts: Count = Field(default=400, description="Facts to train on, at most, the first ones in an order by their ids.")
    epochs: Count = Field(default=320, description="Passes over the facts, at most.")
    patience: Count = Field(default=40, description="Passes without a lower loss on held-out facts after which training ends.")
    lr: Positive = Field(default=1e-3, description="Learning rate of Adam for the map and the scale.")
    context: str = Field(default="{prompt} {target}. ", description="What is put before a prompt in the scope of an edit.")
    answer: Answer = Field(default=ContextAnswer(), description="Who answers in scope.")
    seed: int = Field(default=0, ge=0, description="Seed of the map, of draws of negatives, and of random targets.")

    @property
    def folders(self) -> tuple[str, ...]:
        """Folders from outside that are read."""
        encoder = (self.encoder.path,) if isinstance(self.encoder, FolderEncoder) else ()
        start = (self.answer.start,) if isinstance(self.answer, TrainedAnswer) and self.answer.start != "base" else ()
        return encoder + start
