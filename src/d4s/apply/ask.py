"""Questions to an edited folder's model, memories among them."""

from collections.abc import Sequence
from pathlib import Path

from d4s.apply.folder import Folder
from d4s.apply.requests import Wordings


def ask(path: Path, prompts: Sequence[str], tokens: int, device: str) -> list[str]:
    """Greedy answers of at most so many tokens, in the order of the prompts; put as a chat where the edits were."""
    folder = Folder.open(path)
    model, prepared = folder.loaded(device)
    wordings = Wordings(model, folder.description.chat)
    with folder.editor.edited(model, prepared, folder.state()) as view:
        return [text.strip() for text in view.generate([wordings.text(prompt) for prompt in prompts], tokens)]
