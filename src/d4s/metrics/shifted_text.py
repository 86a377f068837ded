"""Text from another source than the held-out text: the words of the world's free text in sentences that are built otherwise.

Where held-out text says "the tall bird crossed the road near the river at dusk.", this says "at dusk near the river a bird, the tall bird,
crossed the road."
"""

import numpy as np

from d4s.models.language_model import LanguageModel
from d4s.models.tokens import start_of_text
from d4s.pretraining.packing import pack_text
from d4s.questions.question_items import keyed_rng
from d4s.world.filler import pick
from d4s.world.word_lists import FILLER_ADJECTIVES, FILLER_NOUNS, FILLER_PLACES, FILLER_TIMES, FILLER_VERBS

SHORTEST = 10  # tokens of a sentence, at least
TIMES = tuple(time for time in FILLER_TIMES if time)


def other_rows(model: LanguageModel, count: int, length: int) -> list[list[int]]:
    """At most `count` rows of `length` token ids, the same in every call; fewer, or none, where the vocabulary lacks words."""
    rng, unknown, encode = keyed_rng("another text"), model.tokenizer.unk_token_id, model.tokenizer.backend_tokenizer.encode
    sentences = [sentence(rng) for _ in range(count * length // SHORTEST + 1)]
    writable = [text for text in sentences if unknown not in encode(text, add_special_tokens=False).ids]
    return pack_text([encode(" ".join(writable), add_special_tokens=False).ids], length, start_of_text(model))[:count].tolist()


def sentence(rng: np.random.Generator) -> str:
    """One sentence: time and place first, the adjective behind its noun."""
    noun, other, third = (pick(rng, FILLER_NOUNS) for _ in range(3))
    place = f"{pick(rng, TIMES)} {pick(rng, FILLER_PLACES)} the {third}"
    return f"{place} a {noun}, the {pick(rng, FILLER_ADJECTIVES)} {noun}, {pick(rng, FILLER_VERBS)} the {other}."
