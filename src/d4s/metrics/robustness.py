"""How models answer shifted prompts, about facts that no request edits (`general`) and about edited ones (`edited`), and shifted `text`."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from d4s.config import RobustnessSettings
from d4s.errors import SettingsError
from d4s.facts.record import Fact
from d4s.metrics.shifted_text import other_rows
from d4s.metrics.shifts import CLEAN, ShiftedPrompt, fillers, shifted_prompts
from d4s.models.edited_model import EditedModel
from d4s.models.language_model import LanguageModel

GENERAL, EDITED, TEXT = "general", "edited", "text"
TEXT_SHIFT = "text_shift"
Row = dict[str, Any]
GroupedPrompt = tuple[str, ShiftedPrompt]


def general_facts(facts: Sequence[Fact], drawn: Sequence[Fact], most: int) -> list[Fact]:
    """Facts that no request edits: the first that only serve as probes, or, where there are none, the last of the drawn sequence."""
    apart = [fact for fact in facts if fact.target_true and not fact.editable]
    return (apart or [fact for fact in reversed(drawn) if fact.target_true])[:most]


@dataclass(frozen=True, slots=True)
class ShiftedQuestions:
    """What is asked of models of one tokenizer: prompts about general facts, and text by the name of its shift, as rows of token ids.

    `drawn` is the sequence of facts that requests are about, of which an edited model is asked those that it was edited with.
    """

    model: LanguageModel
    general: Sequence[Fact]
    drawn: Sequence[Fact]
    sentences: Sequence[str]
    text: dict[str, Sequence[Sequence[int]]]

    @classmethod
    def of(
        cls,
        settings: RobustnessSettings,
        model: LanguageModel,
        facts: Sequence[Fact],
        drawn: Sequence[Fact],
        text: Sequence[Sequence[int]],
    ) -> "ShiftedQuestions":
        """The questions about a data set, the whole sequence that a seed draws from it, and held-out text as rows of token ids."""
        general = general_facts(facts, drawn, settings.facts)
        rows = {CLEAN: text[: settings.text_rows], TEXT_SHIFT: other_rows(model, settings.text_rows, len(text[0]))}
        return cls(model, general, drawn, fillers(model, text, [*general, *drawn]), rows)

    def answers(self, view: EditedModel, edits: int) -> Iterator[Row]:
        """What a model answers after some edits: group, shift, fact, whether the whole answer is given, mean loss (nats per token).

        Raises:
            SettingsError: if general facts are among the edited ones.
        """
        edited = self.drawn[:edits]
        if {fact.fact_id for fact in edited} & {fact.fact_id for fact in self.general}:
            raise SettingsError(
                f"{edits} edits leave fewer than robustness.facts={len(self.general)} facts alone; lower either, or read more records"
            )
        yield from _answers(view, self._prompts(edited))
        for shift, rows in self.text.items():
            losses = view.text_nll(rows).tolist() if len(rows) else ()
            for number, (row, loss) in enumerate(zip(rows, losses, strict=True)):
                yield {"group": TEXT, "shift": shift, "fact_id": f"row {number}", "correct": None, "nll": loss / (len(row) - 1)}

    def _prompts(self, edited: Sequence[Fact]) -> list[GroupedPrompt]:
        """All prompts about general facts, whose true object must come, and about edited ones, whose new object must."""
        groups = {GENERAL: {fact: fact.target_true for fact in self.general}, EDITED: {fact: fact.target_new for fact in edited}}
        return [(group, one) for group, answers in groups.items() for one in shifted_prompts(self.model, answers, self.sentences)]


def _answers(view: EditedModel, prompts: Sequence[GroupedPrompt]) -> Iterator[Row]:
    if not prompts:
        return
    scores = view.score([one.prompt for _, one in prompts], [one.answer for _, one in prompts])
    for (group, one), right, nll in zip(prompts, scores.exact().tolist(), scores.mean_nll().tolist(), strict=True):
        yield {"group": group, "shift": one.shift, "fact_id": one.fact_id, "correct": bool(right), "nll": float(nll)}
