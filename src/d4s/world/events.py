"""If-then events as in ATOMIC: a head (an action of PersonX), and per relation a tail from a shared pool."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from d4s.config import WorldSettings
from d4s.errors import SettingsError
from d4s.world.filler import pick
from d4s.world.word_lists import (
    BASE_TAILS,
    EFFECT_TAILS,
    HEAD_OBJECTS,
    HEAD_VERBS,
    TAIL_ADJECTIVES,
    TAIL_PLACES,
)

EVENT_RELATIONS = {"xWant": BASE_TAILS, "xNeed": BASE_TAILS, "xEffect": EFFECT_TAILS}
TAILS_PER_RELATION = 48


def event_rows(settings: WorldSettings, rng: np.random.Generator) -> list[dict[str, Any]]:
    """Rows of EVENTS: one per head and relation."""
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
    """Distinct heads whose verbs and objects both recur, in random order.

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
            phrase = _phrase(verbs, rng)
            if phrase not in taken:
                taken.add(phrase)
                pool[phrase] = None
        pools[relation] = list(pool)
    return pools


def _phrase(verbs: Mapping[str, str], rng: np.random.Generator) -> str:
    verb = pick(rng, list(verbs))
    adjective = [pick(rng, TAIL_ADJECTIVES)] if rng.random() < 0.3 else []
    place = [pick(rng, TAIL_PLACES)] if rng.random() < 0.35 else []
    return " ".join([verb, *adjective, pick(rng, verbs[verb].split()), *place])
