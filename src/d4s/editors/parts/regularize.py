"""True sentences beside the targets of fine-tuning: appended to them (SAUL), or as texts of their own.

SAUL (Wang et al. 2024) minimises - log p(o, a | prompt) with a true sentence *a* behind the target *o*: the loss is on target and
sentence, never on the prompt, and the edit comes first. In a causal model the sentence cannot change how its target is predicted
within the text; it keeps what follows a target fluent. That makes `loss: target` a control: it equals no regularization at all.
"""

from collections.abc import Iterator, Sequence
from typing import ClassVar, Literal

from pydantic import Field

from d4s.editors.parts.input_settings import FactPoolSettings
from d4s.editors.parts.part_families import Regularization
from d4s.editors.training_texts import PoolSentence, TrainingText, at_own_places, supervised


class Concatenated(Regularization):
    """Append a true sentence to each copy of prompt and target (SAUL)."""

    kind: Literal["concatenated"] = "concatenated"
    loss: Literal["continuation", "target"] = Field(
        default="continuation", description="Learn target and sentence, or, as a control, the target alone with the sentence behind it."
    )
    separator: str = Field(default=". ", description="Text between target and sentence.")

    label: ClassVar[str] = "true sentences appended"
    formula: ClassVar[str] = "*− log p(o, s, a | prompt)*, *a* a true sentence behind the target *o* and the separator *s*"

    @property
    def pool(self) -> FactPoolSettings:
        """The pool that is prepared, behind this separator."""
        return super().pool.model_copy(update={"separator": self.separator})

    def texts(self, prompt: Sequence[int], target: Sequence[int], sentences: Sequence[PoolSentence], start: int) -> Iterator[TrainingText]:
        """A text per sentence: prompt, target, separator, sentence."""
        end = len(prompt) + len(target)
        for sentence in sentences:
            ids = (*prompt, *target, *sentence.separator, *sentence.ids)
            continuation = supervised(ids, end) if self.loss == "continuation" else ()
            yield TrainingText(ids[:-1], supervised(ids, len(prompt), end), continuation)


class Separate(Regularization):
    """Learn true sentences as texts of their own, beside the target after its prompt."""

    kind: Literal["separate"] = "separate"

    label: ClassVar[str] = "true sentences apart"
    formula: ClassVar[str] = "*− log p(o | prompt) − Σ log p(a)*, *a* true sentences"

    def texts(self, prompt: Sequence[int], target: Sequence[int], sentences: Sequence[PoolSentence], start: int) -> Iterator[TrainingText]:
        """Prompt and target, then a text per sentence."""
        yield at_own_places(prompt, target)
        for sentence in sentences:
            ids = (start, *sentence.ids)
            yield TrainingText(ids[:-1], (), supervised(ids, 1))
