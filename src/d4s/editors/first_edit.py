"""An editor as its first edit sees it, where the present weights are the original ones."""

from d4s.editors.editor_settings import FamilySettings
from d4s.editors.fine_tune_settings import FineTune
from d4s.editors.least_squares_settings import LocateThenEdit


def first_edit_settings(settings: FamilySettings) -> FamilySettings:
    """The same editor with its target at the original weights, where a first edit begins, if the editor allows it.

    Targets at the original weights are computed for many requests in one batch; those that are aligned with others of their batch, or
    belong to windows of one answer, are not. Fine-tuning in epochs, each of which is one step where there is one request, takes as many
    steps as fine-tuning without.
    """
    if isinstance(settings, FineTune):
        return settings.model_copy(update={"schedule": "per_step"})
    if isinstance(settings, LocateThenEdit) and not (
        settings.residual_schedule.has_own_targets or settings.history.replays or not settings.target.is_one_by_request
    ):
        return settings.model_copy(update={"target": settings.target.model_copy(update={"at": "original"})})
    return settings
