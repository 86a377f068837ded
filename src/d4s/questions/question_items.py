"""One item per event, shared by the three forms: counterfactual, statement, options and letter.

Everything is drawn from the whole list of events and keyed by the event, so an item does not depend on how many of the
items are used. Truth of the statements and positions of the right option are balanced by rank.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from d4s.questions.event_templates import EVENT_TEMPLATES, LETTERS, plain_form

TO_RELATIONS = frozenset(name for name, wording in EVENT_TEMPLATES.items() if wording.claim.endswith(" to"))


@dataclass(frozen=True, slots=True)
class Item:
    """One event with its options.

    `options` has the true tail at index `answer` and tails of other events of the relation elsewhere; that at index
    `counterfactual` is the new target of an edit, and what a false statement states.
    """

    event_id: str
    head: str
    relation: str
    tail: str
    aliases: tuple[str, ...]
    bystander: bool
    options: tuple[str, ...]
    answer: int
    counterfactual: int
    states_truth: bool

    @property
    def new_tail(self) -> str:
        """The counterfactual tail."""
        return self.options[self.counterfactual]

    @property
    def stated_tail(self) -> str:
        """The tail stated by the true/false statement."""
        return self.tail if self.states_truth else self.new_tail


def keyed_rng(*key: object) -> np.random.Generator:
    """A generator seeded by a key alone."""
    digest = hashlib.sha256("/".join(map(str, key)).encode()).digest()
    return np.random.default_rng(int.from_bytes(digest[:8], "big"))


def plan_items(events: pd.DataFrame, seed: int) -> list[Item]:
    """One item per head and relation of a frame of EVENTS, in its order; further tails of an event become aliases.

    Events whose relation has no wordings, or too few other tails, give no item.
    """
    known = events[events["relation"].isin(list(EVENT_TEMPLATES))].copy()
    known["tail"] = [plain_tail(relation, tail) for relation, tail in zip(known["relation"], known["tail"], strict=True)]
    pools = {str(relation): _distinct(sorted(set(group["tail"]))) for relation, group in known.groupby("relation")}
    groups = [group for _, group in known.groupby(["head", "relation"], sort=False)]
    ranks = _ranks([str(group["event_id"].iloc[0]) for group in groups], seed)
    items = [_item(group, pools[str(group["relation"].iloc[0])], seed, rank) for group, rank in zip(groups, ranks, strict=True)]
    return [item for item in items if item is not None]


def plain_tail(relation: str, tail: str) -> str:
    """A tail without the "to" that its relation's wordings have, and without a final full stop."""
    text = " ".join(tail.split()).rstrip(".")
    return text.removeprefix("to ") if relation in TO_RELATIONS else text


def _distinct(tails: Sequence[str]) -> list[str]:
    """The first of all tails that differ only in case and punctuation."""
    found: dict[str, str] = {}
    for tail in tails:
        found.setdefault(plain_form(tail), tail)
    return list(found.values())


def _ranks(event_ids: Sequence[str], seed: int) -> list[int]:
    order = sorted(range(len(event_ids)), key=lambda index: hashlib.sha256(f"{seed}/{event_ids[index]}".encode()).digest())
    ranks = [0] * len(event_ids)
    for rank, index in enumerate(order):
        ranks[index] = rank
    return ranks


def _item(group: pd.DataFrame, pool: Sequence[str], seed: int, rank: int) -> Item | None:
    first = group.iloc[0]
    tails = list(dict.fromkeys(str(tail) for tail in group["tail"]))
    true = set(map(plain_form, tails))
    others = [tail for tail in pool if plain_form(tail) not in true]
    if len(others) < len(LETTERS) - 1:
        return None
    rng = keyed_rng("item", seed, first["event_id"])
    options = [others[int(index)] for index in rng.permutation(len(others))[: len(LETTERS) - 1]]
    answer = rank % len(LETTERS)
    options.insert(answer, tails[0])
    wrong = [index for index in range(len(LETTERS)) if index != answer]
    return Item(
        event_id=str(first["event_id"]),
        head=str(first["head"]),
        relation=str(first["relation"]),
        tail=tails[0],
        aliases=tuple(tails[1:]),
        bystander=bool(first["bystander"]),
        options=tuple(options),
        answer=answer,
        counterfactual=wrong[int(rng.integers(len(wrong)))],
        states_truth=rank // len(LETTERS) % 2 == 0,
    )
