"""Token ids and positions, always read off the offsets of one whole text, never from counts of encoded pieces."""

from collections.abc import Sequence

from tokenizers import Encoding

from d4s.models.language_model import LanguageModel

Pair = tuple[list[int], list[int]]


def encode(model: LanguageModel, text: str) -> list[int]:
    """Token ids of a text, with BOS where the tokenizer puts one."""
    return encode_all(model, [text])[0]


def encode_all(model: LanguageModel, texts: Sequence[str]) -> list[list[int]]:
    """Token ids of texts, each as `encode` gives it."""
    return [encoding.ids for encoding in _encodings(model, texts)]


def encode_pair(model: LanguageModel, prompt: str, target: str) -> Pair:
    """Token ids of a prompt and of the target after it, with one space between them unless the prompt ends in a line break."""
    return encode_pairs(model, [prompt], [target])[0]


def encode_pairs(model: LanguageModel, prompts: Sequence[str], targets: Sequence[str]) -> list[Pair]:
    """Token ids of prompts and of the targets after them, cut where the prompt ends in the encoding of the whole text.

    Spaces at the seam count once; after a line break, as chat templates end in, there is none. An empty prompt is the model's
    BOS (or EOS) token, so that the target has a context.

    Raises:
        ValueError: if a target is empty, or no token stands for an empty prompt.
    """
    heads = [prompt.rstrip(" ") for prompt in prompts]
    texts = [f"{head}{_seam(head)}{target.lstrip(' ')}" for head, target in zip(heads, targets, strict=True)]
    pairs = [_cut(encoding, len(head)) for encoding, head in zip(_encodings(model, texts), heads, strict=True)]
    asked = zip(pairs, prompts, targets, strict=True)
    empty = [(prompt, target) for (_, ids), prompt, target in asked if not ids or not target.strip()]
    if empty:
        raise ValueError(f"targets without any token after their prompts: {empty[:5]}")
    return [(prompt_ids or [start_of_text(model)], ids) for prompt_ids, ids in pairs]


def _seam(head: str) -> str:
    return "" if not head or head.endswith("\n") else " "


def _cut(encoding: Encoding, length: int) -> Pair:
    """Ids before and after a number of characters; a token that straddles it belongs to the target."""
    for index, (_, end) in enumerate(encoding.offsets):
        if end > length and not encoding.special_tokens_mask[index]:
            return encoding.ids[:index], encoding.ids[index:]
    return encoding.ids, []


def start_of_text(model: LanguageModel) -> int:
    """The token that stands for an empty context: BOS, else EOS.

    Raises:
        ValueError: if the tokenizer has neither.
    """
    for token in (model.tokenizer.bos_token_id, model.tokenizer.eos_token_id):
        if isinstance(token, int):
            return token
    raise ValueError("an empty context needs a BOS or EOS token, and the tokenizer has neither")


def lookup_position(model: LanguageModel, prompt_text: str, subject: str, template: str) -> int:
    """Index in `encode(prompt_text)` of the last token of the subject.

    The subject is found where the filled template puts it, so it may also occur elsewhere in the text; a prefix may stand
    before the filled template and a target after it (the last occurrence of the filled template counts).

    Raises:
        ValueError: if the template does not hold one `{}`, the subject is empty or ends in a space, the text does not
            hold the filled template, or no token covers the subject's last character; names prompt and subject.
    """
    where = f"prompt {prompt_text!r}, subject {subject!r}"
    if template.count("{}") != 1:
        raise ValueError(f"{where}: template {template!r} must hold exactly one {{}}")
    if not subject or subject != subject.rstrip():
        raise ValueError(f"{where}: the subject must not be empty or end in a space")
    start = prompt_text.rfind(template.replace("{}", subject))
    if start < 0:
        raise ValueError(f"{where}: the prompt does not hold the template {template!r} filled with the subject")
    last = start + template.index("{}") + len(subject) - 1
    offsets = _encodings(model, [prompt_text])[0].offsets
    covering = [index for index, (first, end) in enumerate(offsets) if first <= last < end]
    if not covering:
        raise ValueError(f"{where}: no token covers the subject's last character; the tokenizer drops it")
    return covering[-1]


def _encodings(model: LanguageModel, texts: Sequence[str]) -> list[Encoding]:
    if not texts:
        return []
    encodings = model.tokenizer(list(texts), add_special_tokens=True, truncation=False, verbose=False).encodings
    return list(encodings or ())
