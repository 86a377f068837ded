"""Questions to an edited folder's model, memories among them."""

from collections.abc import Sequence
from pathlib import Path

from d4s.apply.edited_folder import EditedFolder
from d4s.apply.prompt_builder import PromptBuilder
from d4s.errors import SettingsError


def ask(path: Path, prompts: Sequence[str], tokens: int, device: str) -> list[str]:
    """Greedy answers of at most `tokens` tokens, in the order of the prompts; put as a chat where the edits were.

    Raises:
        SettingsError: if prompts are empty or too long for the model, naming all of them.
    """
    folder = EditedFolder.open(path, device=device)
    folder.load()
    refuse_invalid_prompts(prompts, folder.prompts)
    with folder.edited() as view:
        return [text.strip() for text in view.generate([folder.prompts.text(prompt) for prompt in prompts], tokens)]


def refuse_invalid_prompts(prompts: Sequence[str], builder: PromptBuilder) -> None:
    """Refuse prompts that are empty or too long for the model.

    Raises:
        SettingsError: naming all of them.
    """
    lengths, limit = {prompt: builder.tokens(prompt) for prompt in prompts}, builder.model.max_positions
    if invalid := {prompt: tokens for prompt, tokens in lengths.items() if not 1 <= tokens <= limit}:
        lines = "\n".join(f"  {prompt!r} has {tokens}" for prompt, tokens in invalid.items())
        raise SettingsError(f"a prompt must have 1 to {limit} tokens for this model; word these otherwise:\n{lines}")
