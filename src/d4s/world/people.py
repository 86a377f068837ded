"""People with shared first and last names, each with one object per relation."""

from collections.abc import Iterator
from typing import Any

import numpy as np

from d4s.config import WorldSettings
from d4s.errors import SettingsError
from d4s.world.filler import pick
from d4s.world.relations import RELATIONS
from d4s.world.word_lists import FIRST_NAMES, LAST_NAMES

WITHHELD = 2
MONONYMS = 1  # the stream of random numbers that draws them


def people_rows(settings: WorldSettings, rng: np.random.Generator) -> list[dict[str, Any]]:
    """Rows of PEOPLE: one per person and relation, with the wordings withheld from training."""
    objects = {relation.name: relation.objects(relation.n_objects, rng) for relation in RELATIONS}
    names = _with_mononyms(list(_full_names(settings, rng)), settings)
    n_bystanders = round(settings.bystanders * settings.people)
    return [
        {
            "person_id": f"p{index:04d}",
            "name": name,
            "relation": relation.name,
            "object": pick(rng, objects[relation.name]),
            "bystander": index < n_bystanders,
            "reserved": index >= settings.people - settings.reserved_people,
            "withheld": [relation.wordings[k] for k in sorted(rng.permutation(len(relation.wordings))[:WITHHELD])],
        }
        for index, name in enumerate(names)
        for relation in RELATIONS
    ]


def _full_names(settings: WorldSettings, rng: np.random.Generator) -> Iterator[str]:
    """Distinct pairs of a first and a last name; both are shared, so neither token alone identifies a person.

    Raises:
        SettingsError: if there are fewer pairs than people.
    """
    if settings.people > settings.first_names * settings.last_names:
        raise SettingsError(
            f"{settings.people} people need more than {settings.first_names} first and {settings.last_names} last names; raise either"
        )
    firsts = FIRST_NAMES.draw(settings.first_names, rng)
    lasts = LAST_NAMES.draw(settings.last_names, rng)
    taken: set[str] = set()
    for index in rng.permutation(settings.people):
        last = lasts[int(index) % len(lasts)]
        free = [name for name in (f"{first} {last}" for first in firsts) if name not in taken]
        name = pick(rng, free)
        taken.add(name)
        yield name


def _with_mononyms(names: list[str], settings: WorldSettings) -> list[str]:
    """Names of which a share are one word that nobody else is called by; drawn apart, so that all else in the world stays as it is.

    Raises:
        SettingsError: if there are fewer such words than asked for.
    """
    count = round(settings.mononyms * len(names))
    if not count:
        return names
    rng = np.random.default_rng([settings.seed, MONONYMS])
    shared = {word for name in names for word in name.split()}
    free = [word for word in LAST_NAMES.known if word not in shared]
    if count > len(free):
        raise SettingsError(
            f"{count} people known by one word asked for, but only {len(free)} names are left; lower mononyms or last_names"
        )
    words = (free[int(index)] for index in rng.permutation(len(free)))
    chosen = {int(index): word for index, word in zip(rng.permutation(len(names))[:count], words, strict=False)}
    return [chosen.get(index, name) for index, name in enumerate(names)]
