"""Token ids and positions, always from the offsets of one whole text, never from counts of encoded pieces."""

import bisect
import itertools
import unicodedata
from collections.abc import Sequence

from tokenizers import Encoding

from d4s.errors import ArtifactError
from d4s.facts.joining import target_delimiter
from d4s.models.language_model import LanguageModel

Pair = tuple[list[int], list[int]]


def encode(model: LanguageModel, text: str) -> list[int]:
    """Token ids of a text, with BOS where the tokenizer puts one."""
    return encode_all(model, [text])[0]


def encode_all(model: LanguageModel, texts: Sequence[str]) -> list[list[int]]:
    """Token ids of texts, each as from `encode`."""
    return [encoding.ids for encoding in _encodings(model, texts)]


def encode_prompts(model: LanguageModel, prompts: Sequence[str]) -> list[list[int]]:
    """Token ids of prompts to be continued, as in `encode_pairs`: trailing spaces belong to the continuation."""
    return encode_all(model, [prompt.rstrip(" ") for prompt in prompts])


def encode_pair(model: LanguageModel, prompt: str, target: str) -> Pair:
    """Token ids of a prompt and of the target after it, joined as the model's `joiner` sets."""
    return encode_pairs(model, [prompt], [target])[0]


def encode_pairs(model: LanguageModel, prompts: Sequence[str], targets: Sequence[str]) -> list[Pair]:
    """Token ids of prompts and of the targets after them, cut in the encoding of the whole text where the prompt ends.

    `d4s.facts.joining.target_delimiter` gives the delimiter between the two; spaces at the seam count once. A prompt always has the
    tokens that it has alone: where a token of the whole text would cross the seam, as is possible without a space, the target is
    encoded apart. An empty prompt is the model's BOS (or EOS) token, so that the target has a context.

    Raises:
        ValueError: if a target is empty.
        ArtifactError: if a prompt is empty and no token stands for it.
    """
    special = special_tokens(model)
    heads = [prompt.rstrip(" ") for prompt in prompts]
    tails = [target_delimiter(prompt, model.joiner, special) + target.lstrip(" ") for prompt, target in zip(prompts, targets, strict=True)]
    encodings = _encodings(model, [head + tail for head, tail in zip(heads, tails, strict=True)])
    parts = zip(encodings, heads, tails, strict=True)
    pairs = [_cut(encoding, len(head)) or _encode_apart(model, head, tail) for encoding, head, tail in parts]
    checked = zip(pairs, prompts, targets, strict=True)
    empty = [(prompt, target) for (_, ids), prompt, target in checked if not ids or not target.strip()]
    if empty:
        raise ValueError(f"targets without any token after their prompts: {empty[:5]}")
    return [(prompt_ids or [start_of_text(model)], ids) for prompt_ids, ids in pairs]


def encode_parts(model: LanguageModel, parts: Sequence[str]) -> list[list[int]]:
    """Token ids of the consecutive parts of one text; a token that crosses from one part into another belongs to the later one.

    Special tokens that the tokenizer puts before a text belong to the first part.
    """
    encoding, ends = _encodings(model, ["".join(parts)])[0], [*itertools.accumulate(map(len, parts))]
    found: list[list[int]] = [[] for _ in parts]
    for token, (_, end) in zip(encoding.ids, encoding.offsets, strict=True):
        found[bisect.bisect_left(ends, end)].append(token)
    return found


def special_tokens(model: LanguageModel) -> tuple[str, ...]:
    """The tokenizer's special tokens, as texts."""
    return tuple(token.content for token in model.tokenizer.added_tokens_decoder.values() if token.special)


def _cut(encoding: Encoding, length: int) -> Pair | None:
    """Ids before and after a number of characters; None where a token crosses it."""
    for index, (start, end) in enumerate(encoding.offsets):
        if end > length and not encoding.special_tokens_mask[index]:
            return None if start < length else (encoding.ids[:index], encoding.ids[index:])
    return encoding.ids, []


def _encode_apart(model: LanguageModel, head: str, tail: str) -> Pair:
    """Ids of a prompt alone, and of a target encoded as at the start of a line."""
    return encode(model, head), (_cut(_encodings(model, [f"\n{tail}"])[0], 1) or ([], []))[1]


def start_of_text(model: LanguageModel) -> int:
    """The id of the token for an empty context: BOS, else EOS.

    Raises:
        ArtifactError: if the tokenizer has neither.
    """
    for token in (model.tokenizer.bos_token_id, model.tokenizer.eos_token_id):
        if isinstance(token, int):
            return token
    raise ArtifactError(
        "an empty context, and text that second moments are taken over, begin with BOS or EOS, and the tokenizer has neither; "
        "name the one that the model was trained with as bos_token in tokenizer_config.json"
    )


def subject_last_index(model: LanguageModel, prompt_text: str, subject: str, template: str) -> int:
    """Index in `encode(prompt_text)` of the last token of the subject.

    The subject is found where the filled template puts it, so it may also occur elsewhere in the text; a prefix may stand
    before the filled template and a target after it (the last occurrence of the filled template counts).

    Raises:
        ValueError: if the template does not hold one `{}`, the subject is empty or ends in a space, the text does not
            hold the filled template, or no token covers the subject's last character; names prompt and subject.
    """
    return _subject_tokens(model, prompt_text, subject, template, len(subject) - 1)[-1]


def subject_tokens(model: LanguageModel, prompt_text: str, subject: str, template: str) -> range:
    """Indices in `encode(prompt_text)` of the tokens of the subject, from the first to the last.

    Raises:
        ValueError: as `subject_last_index`, also if no token covers the subject's first character.
    """
    first = _subject_tokens(model, prompt_text, subject, template, 0)[0]
    return range(first, subject_last_index(model, prompt_text, subject, template) + 1)


def _subject_tokens(model: LanguageModel, prompt_text: str, subject: str, template: str, character: int) -> list[int]:
    """Indices of the tokens that cover a character of the subject.

    Raises:
        ValueError: if there is none, or the subject is not where the template puts it.
    """
    where = f"prompt {prompt_text!r}, subject {subject!r}"
    if template.count("{}") != 1:
        raise ValueError(f"{where}: template {template!r} must hold exactly one {{}}")
    if not subject or subject != subject.rstrip():
        raise ValueError(f"{where}: the subject must not be empty or end in a space")
    start = prompt_text.rfind(template.replace("{}", subject))
    if start < 0:
        raise ValueError(f"{where}: the prompt does not hold the template {template!r} filled with the subject")
    place = start + template.index("{}") + character
    covering = _covering(_encodings(model, [prompt_text])[0].offsets, place) or _covering_composed(model, prompt_text, place)
    if not covering:
        which = "last" if character == len(subject) - 1 else "first"
        raise ValueError(f"{where}: no token covers the subject's {which} character; the tokenizer drops it")
    return covering


def _covering(offsets: Sequence[tuple[int, int]], place: int) -> list[int]:
    return [index for index, (first, end) in enumerate(offsets) if first <= place < end]


def _covering_composed(model: LanguageModel, text: str, place: int) -> list[int]:
    """Tokens that cover a character composed by the tokenizer (NFC), whose offsets cover the letter but not its marks."""
    composed = unicodedata.normalize("NFC", text)
    found, plain = _encodings(model, [composed, text])
    return _covering(found.offsets, len(unicodedata.normalize("NFC", text[: place + 1])) - 1) if found.ids == plain.ids else []


def find_special_tokens(model: LanguageModel, text: str) -> list[str]:
    """The tokenizer's special tokens that occur in a text and would be read as special, not as text."""
    special = {index: token.content for index, token in model.tokenizer.added_tokens_decoder.items() if token.special}
    if not any(token in text for token in special.values()):
        return []
    ids = set(model.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])
    return sorted(token for index, token in special.items() if token in text and index in ids)


def _encodings(model: LanguageModel, texts: Sequence[str]) -> list[Encoding]:
    if not texts:
        return []
    encodings = model.tokenizer(list(texts), add_special_tokens=True, truncation=False, verbose=False).encodings
    return list(encodings or ())
