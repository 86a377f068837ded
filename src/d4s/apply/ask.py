"""Questions to an edited folder's model, memories among them."""

from collections.abc import Sequence
from pathlib import Path

from d4s.apply.folder import Folder
from d4s.apply.requests import Wordings
from d4s.errors import SettingsError
from d4s.models.language_model import LanguageModel


def ask(path: Path, prompts: Sequence[str], tokens: int, device: str) -> list[str]:
    """Greedy answers of at most so many tokens, in the order of the prompts; put as a chat where the edits were.

    Raises:
        SettingsError: if prompts are empty or too long for the model, naming all of them.
    """
    folder = Folder.open(path)
    model, prepared = folder.loaded(device)
    wordings = Wordings(model, folder.description.chat)
    refuse_unfit(prompts, wordings, model)
    with folder.editor.edited(model, prepared, folder.state()) as view:
        return [text.strip() for text in view.generate([wordings.text(prompt) for prompt in prompts], tokens)]


def refuse_unfit(prompts: Sequence[str], wordings: Wordings, model: LanguageModel) -> None:
    """Refuse prompts that are empty or too long for the model.

    Raises:
        SettingsError: naming all of them.
    """
    lengths = {prompt: wordings.tokens(prompt) for prompt in prompts}
    if unfit := {prompt: tokens for prompt, tokens in lengths.items() if not 1 <= tokens <= model.max_positions}:
        lines = "\n".join(f"  {prompt!r} has {tokens}" for prompt, tokens in unfit.items())
        raise SettingsError(f"a prompt must have 1 to {model.max_positions} tokens for this model; word these otherwise:\n{lines}")
