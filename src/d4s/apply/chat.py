"""A user's turn in a model's chat: its tokenizer's template, rendered once, as what stands before and after the user's words.

Templates may say the date, so a folder keeps what it was edited with.
"""

from jinja2 import TemplateError
from transformers import PreTrainedTokenizerFast

from d4s.errors import SettingsError
from d4s.facts.jsonl import shorten
from d4s.settings_base import Frozen

SAMPLE = 'Is this "one" & <two>, Zoë?'
"""Words of a user that a template which escapes, folds or leaves out anything would not keep."""


class Chat(Frozen):
    """What a chat template puts around a user's words."""

    before: str
    after: str

    def turn(self, prompt: str) -> str:
        """A prompt, or a template of one, as a user's turn, up to where the answer begins."""
        return f"{self.before}{prompt}{self.after}"


def render_chat(tokenizer: PreTrainedTokenizerFast) -> Chat:
    """The tokenizer's chat template around one user's words; BOS stands there only where the tokenizer does not put it itself.

    Raises:
        SettingsError: if there is none, it cannot be rendered (in its own words), it does not keep the user's words as they are, or it
            holds `{}`.
    """
    template = tokenizer.chat_template
    if not template:
        raise SettingsError("--chat was given, but the tokenizer has no chat template; leave --chat out")
    what = f"the tokenizer's chat template {shorten(template)}"
    try:
        text = str(tokenizer.apply_chat_template([{"role": "user", "content": SAMPLE}], tokenize=False, add_generation_prompt=True))
    except (TemplateError, ValueError, TypeError, LookupError, AttributeError) as error:  # whatever a template's expressions raise
        raise SettingsError(f"{what} cannot be rendered for a single user's turn: {error}; fix it, or leave --chat out") from None
    if text.count(SAMPLE) != 1:
        raise SettingsError(
            f"{what} does not hold the user's text {SAMPLE!r} once and as it is, as where it wants it in parts (found {shorten(text)}); "
            "fix it, or leave --chat out"
        )
    before, after = _strip_second_bos(tokenizer, text).split(SAMPLE)
    if "{}" in before + after:
        raise SettingsError(
            f"{what} puts {{}} beside the user's text, where it would pass for the subject's place; fix it, or leave --chat out"
        )
    return Chat(before=before, after=after)


def _strip_second_bos(tokenizer: PreTrainedTokenizerFast, text: str) -> str:
    """A rendered text that begins with BOS, or with what follows BOS where the tokenizer puts one in front of every text."""
    bos, stripped = tokenizer.bos_token, text.lstrip()
    if bos is None or not stripped.startswith(str(bos)):
        return text
    adds_bos = tokenizer("").input_ids[:1] == [tokenizer.bos_token_id]
    return stripped.removeprefix(str(bos)) if adds_bos else stripped
