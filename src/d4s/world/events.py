"""If-then events in the manner of ATOMIC: a head that PersonX does, and per relation a tail from a shared pool."""

from typing import Any

import numpy as np

from d4s.config import WorldSettings
from d4s.errors import SettingsError
from d4s.world.filler import pick
from d4s.world.words import (
    HEAD_OBJECTS,
    HEAD_VERBS,
    TAIL_ADJECTIVES,
    TAIL_BASE_VERBS,
    TAIL_EFFECT_VERBS,
    TAIL_OBJECTS,
    TAIL_PLACES,
)

EVENT_RELATIONS = {"xWant": TAIL_BASE_VERBS, "xNeed": TAIL_BASE_VERBS, "xEffect": TAIL_EFFECT_VERBS}
TAILS_PER_RELATION = 48


def event_rows(settings: WorldSettings, rng: np.random.Generator) -> list[dict[str, Any]]:
    """Rows of the EVENTS schema: one per head and relation."""
    pools = _tail_pools(rng)
    heads = _heads(settings.events, rng)
    n_bystanders = round(settings.bystanders * settings.events)
    return [
        {
            "event_id": f"e{index:04d}.{relation}",
            "head": head,
            "relation": relation,
            "tail": pick(rng, pools[relation]),
            "bystander": index < n_bystanders,
            "source": "world",
        }
        for index, head in enumerate(heads)
        for relation in EVENT_RELATIONS
    ]


def _heads(count: int, rng: np.random.Generator) -> list[str]:
    """Distinct heads whose verbs and objects are both shared, in random order.

    Raises:
        SettingsError: if there are fewer heads than asked for.
    """
    if count > len(HEAD_VERBS) * len(HEAD_OBJECTS):
        raise SettingsError(f"{count} events asked for, but only {len(HEAD_VERBS) * len(HEAD_OBJECTS)} can be made; ask for fewer")
    taken: dict[str, None] = {}
    for index in rng.permutation(count):
        thing = HEAD_OBJECTS[int(index) % len(HEAD_OBJECTS)]
        free = [head for head in (f"PersonX {verb} {thing}" for verb in HEAD_VERBS) if head not in taken]
        taken[pick(rng, free)] = None
    return list(taken)


def _tail_pools(rng: np.random.Generator) -> dict[str, list[str]]:
    """Distinct phrases of two to five words per relation; no phrase belongs to two relations."""
    taken: set[str] = set()
    pools: dict[str, list[str]] = {}
    for relation, verbs in EVENT_RELATIONS.items():
        pool: dict[str, None] = {}
        while len(pool) < TAILS_PER_RELATION:
            words = [pick(rng, verbs)]
            if rng.random() < 0.3:
                words.append(pick(rng, TAIL_ADJECTIVES))
            words.append(pick(rng, TAIL_OBJECTS))
            if rng.random() < 0.35:
                words.append(pick(rng, TAIL_PLACES))
            phrase = " ".join(words)
            if phrase not in taken:
                taken.add(phrase)
                pool[phrase] = None
        pools[relation] = list(pool)
    return pools
