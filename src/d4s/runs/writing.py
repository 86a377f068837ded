"""Texts that models write about the requests of a run, and their rows among the scores."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from d4s.config import FluencySettings
from d4s.facts.record import Fact
from d4s.metrics.fluency import Continuation, continuations
from d4s.metrics.scoring import Row
from d4s.models.edited_model import EditedModel
from d4s.runs.baseline_reader import read_continuations


@dataclass(frozen=True, slots=True)
class Writing:
    """The facts that texts are written about, of the first requests of a sequence, and what the unedited model wrote."""

    settings: FluencySettings
    facts: Sequence[Fact]
    unedited: Sequence[Continuation]

    @classmethod
    def of(cls, settings: FluencySettings, facts: Sequence[Fact], baseline: Path) -> "Writing":
        """The texts about the facts of a sequence, with those of its baseline."""
        return cls(settings, facts, read_continuations(baseline, len(facts)))

    def chosen(self, length: int) -> Sequence[Fact]:
        """The facts that are written about after `length` edits."""
        return self.facts[: length : self.settings.every]

    def by(self, model: EditedModel, length: int) -> list[Continuation]:
        """What a model writes after `length` edits."""
        return continuations(model, self.chosen(length), self.settings)

    def by_unedited(self, length: int) -> list[Continuation]:
        """What the unedited model wrote about the same facts."""
        chosen = {fact.fact_id for fact in self.chosen(length)}
        return [text for text in self.unedited if text.fact_id in chosen]

    def rows(self, texts: Sequence[Continuation], length: int) -> Iterator[Row]:
        """Rows of SCORES: the metrics of texts after `length` edits."""
        edited_at: Mapping[str, int] = {fact.fact_id: step for step, fact in enumerate(self.facts, start=1)}
        for text in texts:
            for metric, value in text.metrics().items():
                yield {
                    "step": length,
                    "protocol": "retained",
                    "fact_id": text.fact_id,
                    "edited_at": edited_at[text.fact_id],
                    "metric": metric,
                    "prompt_id": text.number,
                    "value": value,
                }
