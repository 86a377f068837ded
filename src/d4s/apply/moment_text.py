"""Text whose second moments tell what an edit must leave alone: a file, or a data set's articles."""

from pathlib import Path

import torch
from jaxtyping import Int
from torch import Tensor

from d4s.errors import D4SError, MissingDataError, SettingsError
from d4s.facts.articles import articles
from d4s.models.language_model import LanguageModel
from d4s.models.self_written_text import row_width
from d4s.models.tokens import encode, start_of_text
from d4s.registry import nearest
from d4s.study_settings import data_folder


def rows_from_file(model: LanguageModel, path: Path) -> Int[Tensor, "n row"]:
    """A text file as rows of tokens.

    Raises:
        D4SError: if it cannot be read as UTF-8, or is too short for one row.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise D4SError(f"{path} cannot be read as text in UTF-8: {error}") from None
    return _rows(model, text, str(path))


def rows_from_dataset(model: LanguageModel, name: str) -> Int[Tensor, "n row"]:
    """The articles of a data set of the data folder as rows of tokens.

    Raises:
        SettingsError: if the data folder has no such data set, or it holds no articles.
    """
    try:
        folder = data_folder(None)
    except MissingDataError:
        raise SettingsError(f"{name!r} is neither `self` nor a folder of moments, and D4S_DATA names no folder of data sets") from None
    paths = sorted((folder / name).glob("*.jsonl"))
    if not paths:
        raise SettingsError(
            f"{folder / name} holds no *.jsonl of articles; {nearest(name, sorted(path.name for path in folder.iterdir()))}"
        )
    text = "\n\n".join(article.text for path in paths for article in articles(path) if article.split == "stats")
    return _rows(model, text, str(folder / name))


def _rows(model: LanguageModel, text: str, where: str) -> Int[Tensor, "n row"]:
    """Paragraph after paragraph in rows of equal length, each behind the token that begins a text.

    Raises:
        D4SError: if there are too few tokens for one row.
    """
    width = row_width(model)
    ids = [token for part in text.split("\n\n") if part.strip() for token in encode(model, part.strip())]
    count = len(ids) // (width - 1)
    if not count:
        raise D4SError(f"{where} has {len(ids)} tokens, too few for one row of {width}")
    body = torch.tensor(ids[: count * (width - 1)]).view(count, width - 1)
    return torch.cat([torch.full((count, 1), start_of_text(model)), body], 1)
