"""Controls of the multi-question set: the generated form with other new targets, so that one property varies at a time.

    long_predictable   a long phrase that begins as the true one does, so that most of its tokens are expected
    short_surprising   one word, with which no phrase of the relation begins
    uniform            phrases of one length, the same for all events of a relation
    diverse            phrases of that length, every one of the relation's equally often

Facts keep their ids, so that a control is compared with the generated form event by event.
"""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import takewhile

from typing_extensions import TypeIs

from d4s.config import FORMS, Control, Form
from d4s.questions.question_items import Item, keyed_rng
from d4s.questions.writers import Draft

Pools = Mapping[str, Sequence[str]]


def is_control(form: Form | Control) -> TypeIs[Control]:
    """Whether a form is a control of the generated one."""
    return form not in FORMS


def apply_control(items: Sequence[Item], drafts: Mapping[str, Draft], control: Control, seed: int) -> dict[str, Draft]:
    """Drafts of the generated form by event, with the new targets of a control."""
    targets = new_targets(items, control, seed)
    return {event: replace(draft, form=control, target_new=targets[event]) for event, draft in drafts.items()}


def new_targets(items: Sequence[Item], control: Control, seed: int) -> dict[str, str]:
    """A new target for every item, by event: a phrase that is neither its tail nor an alias."""
    tails: dict[str, list[str]] = defaultdict(list)
    for item in items:
        tails[item.relation].append(item.tail)
    pools = {relation: sorted(set(found)) for relation, found in tails.items()}
    if control == "long_predictable":
        return {item.event_id: _predictable(item, _others(item, pools), seed) for item in items}
    if control == "short_surprising":
        return {item.event_id: _surprising(item, pools, seed) for item in items}
    return _of_one_length(items, pools, seed, is_uniform=control == "uniform")


def _others(item: Item, pools: Pools) -> list[str]:
    return [tail for tail in pools[item.relation] if tail != item.tail and tail not in item.aliases]


def _words(tail: str) -> int:
    return len(tail.split())


def _predictable(item: Item, others: Sequence[str], seed: int) -> str:
    """Of the longer half of the other tails, the one sharing most first words with the true tail; without one, the item's own."""
    if not others:
        return item.new_tail
    middle = sorted(map(_words, others))[len(others) // 2]
    long = [tail for tail in others if _words(tail) >= middle]
    shared = {
        tail: len(list(takewhile(lambda pair: pair[0] == pair[1], zip(tail.split(), item.tail.split(), strict=False)))) for tail in long
    }
    best = [tail for tail in long if shared[tail] == max(shared.values())]
    return best[int(keyed_rng("predictable", seed, item.event_id).integers(len(best)))]


def _surprising(item: Item, pools: Pools, seed: int) -> str:
    """A word that begins or ends a tail of another relation and begins none of this one.

    Without one any last word, and without that the item's own new tail.
    """
    begun = {tail.split()[0] for tail in pools[item.relation]}
    own = {item.tail, *item.aliases}
    elsewhere = {
        word
        for relation, pool in pools.items()
        if relation != item.relation
        for tail in pool
        for word in (tail.split()[0], tail.split()[-1])
    }
    words = sorted(elsewhere - begun - own) or sorted({tail.split()[-1] for tail in pools[item.relation]} - own)
    return words[int(keyed_rng("surprising", seed, item.event_id).integers(len(words)))] if words else item.new_tail


def _of_one_length(items: Sequence[Item], pools: Pools, seed: int, *, is_uniform: bool) -> dict[str, str]:
    """Tails of the relation's commonest length: the same for all (the second where that is true), or each equally often."""
    found: dict[str, str] = {}
    for relation, pool in pools.items():
        length = Counter(map(_words, pool)).most_common(1)[0][0]
        cards = [tail for tail in pool if _words(tail) == length]
        rng = keyed_rng("one_length", seed, relation)
        deck = [cards[int(index)] for index in rng.permutation(len(cards))]
        for number, item in enumerate(item for item in items if item.relation == relation):
            order = deck if is_uniform else [*deck[number % len(deck) :], *deck[: number % len(deck)]]
            found[item.event_id] = next((tail for tail in order if tail in _others(item, pools)), item.new_tail)
    return found
