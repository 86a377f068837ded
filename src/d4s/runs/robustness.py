"""How edited models answer shifted prompts, on the way from the original to the edited weights; and models kept during training.

A share of the way is a view of a finished state: its change of weights times the share, from the original bits at 0 to the editor's own
weights at 1. Nothing is edited again.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from safetensors.torch import load_file
from torch import Tensor

from d4s.artifacts import Artifact
from d4s.config import RobustnessSettings
from d4s.editors.weights import apply_deltas
from d4s.errors import SettingsError
from d4s.facts.record import Fact
from d4s.metrics.robustness import Row, answers_to, general_facts, prompts_about
from d4s.metrics.shifts import fillers
from d4s.models.edited_model import EditedModel
from d4s.models.language_model import LanguageModel
from d4s.models.loading import load
from d4s.models.views import LiveModel
from d4s.pretraining.kept_models import kept_files


@dataclass(frozen=True, slots=True)
class ShiftedQuestions:
    """What is asked: general facts, the facts of a sequence in order, and the held-out text that sentences in front are taken from."""

    settings: RobustnessSettings
    general: Sequence[Fact]
    drawn: Sequence[Fact]
    text: Sequence[Sequence[int]]

    @classmethod
    def of(
        cls, settings: RobustnessSettings, facts: Sequence[Fact], drawn: Sequence[Fact], text: Sequence[Sequence[int]]
    ) -> "ShiftedQuestions":
        """The questions about a data set and the whole sequence that a seed draws from it."""
        return cls(settings, general_facts(facts, drawn, settings.facts), drawn, text)

    def answers(self, model: LanguageModel, view: EditedModel, length: int, share: float) -> list[Row]:
        """Rows of ROBUSTNESS of a model after `length` edits, at a share of its change.

        Raises:
            SettingsError: if general facts are among the edited ones.
        """
        edited = self.drawn[:length]
        if {fact.fact_id for fact in edited} & {fact.fact_id for fact in self.general}:
            raise SettingsError(
                f"{length} edits leave fewer than robustness.facts={self.settings.facts} facts alone; lower either, or read more records"
            )
        prompts = prompts_about(model, self.general, edited, self._sentences(model))
        return [{"step": length, "share": share, "training_steps": None, **row} for row in answers_to(view, prompts)]

    def on_the_way(self, model: LanguageModel, changes: Mapping[int, Float[Tensor, "d_out d_in"]] | None, length: int) -> Iterator[Row]:
        """Rows of a model at every other share of its change of weights, where this length asks for them; none without a change."""
        if changes is None or length not in self.settings.shares_at:
            return
        for share in self.settings.shares:
            if share < 1:
                with apply_deltas(model, {layer: share * change.double() for layer, change in changes.items()}) as view:
                    yield from self.answers(model, view, length, share)

    def of_kept_models(self, folder: Path) -> Iterator[Row]:
        """Rows of the models kept on the way of training, about general facts; none where none were kept."""
        kept = kept_files(Artifact.open(folder, "models"))
        if not kept:
            return
        model = load(folder)
        for steps, name in kept.items():
            _take_over(model, load_file(folder / name))
            prompts = prompts_about(model, self.general, (), self._sentences(model))
            for row in answers_to(LiveModel(model), prompts):
                yield {"step": 0, "share": None, "training_steps": steps, **row}

    def _sentences(self, model: LanguageModel) -> list[str]:
        return fillers(model, self.text, [*self.general, *self.drawn])


@torch.no_grad()
def _take_over(model: LanguageModel, weights: Mapping[str, Tensor]) -> None:
    """Give a model other weights, all of them."""
    for name, parameter in model.network.named_parameters():
        parameter.copy_(weights[name])
