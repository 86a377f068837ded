"""The data sets of a world of beliefs: the requests to change a belief, and its statements as texts to be learnt.

A request is about a fact that depends on no other. Where another fact depends on it, its object is drawn with probability 0.8 among
those that change the answer downstream; else it is the object believed already with probability 0.6, and the next likely one otherwise.
`target_true` is the likeliest object beside the requested one.
"""

import numpy as np

from d4s.config import COMPOUNDS, PosteriorSettings
from d4s.facts.facts_stage import ReadResult, RecordSource, result_of_facts
from d4s.facts.readers import files_of
from d4s.facts.record import Fact
from d4s.questions.question_items import keyed_rng
from d4s.world.beliefs import Beliefs
from d4s.world.filler import pick
from d4s.world.posterior import BayesianReader, Place

REQUESTS = "requests"
CHANGING, REINFORCING = 0.8, 0.6


def read(source: RecordSource) -> ReadResult:
    """Requests, or the statements of one kind.

    Raises:
        SettingsError: if there is no such style.
    """
    files_of("beliefs", source.style)
    world = Beliefs.of(source.path)
    if source.style not in ("", REQUESTS):
        statements = [one for one in world.statements if one.kind == source.style]
        return result_of_facts([one.to_fact(number, world.relations) for number, one in enumerate(statements)], source.limit)
    reader = BayesianReader.of(world, COMPOUNDS, PosteriorSettings().sweeps)
    rows = world.graph[world.graph["upstream"] == ""].itertuples(index=False)
    places = [(str(row.subject), str(row.relation)) for row in rows]
    return result_of_facts([_request(number, place, world, reader, source.seed) for number, place in enumerate(places)], source.limit)


def _request(number: int, place: Place, world: Beliefs, reader: BayesianReader, seed: int) -> Fact:
    subject, relation = place
    objects, fact_id = world.relations[relation].objects, f"beliefs:{number:04d}.{relation}"
    wanted = requested_object(place, world, reader, keyed_rng("request", seed, fact_id))
    ranked = np.argsort(-reader.belief(place), kind="stable")
    return Fact(
        fact_id=fact_id,
        dataset="beliefs",
        relation=relation,
        subject=subject,
        template=world.relations[relation].template,
        target_true=next(objects[int(one)] for one in ranked if int(one) != wanted),
        target_new=objects[wanted],
        group=subject,
    )


def requested_object(place: Place, world: Beliefs, reader: BayesianReader, rng: np.random.Generator) -> int:
    """The requested object, by number."""
    (subject, _), dependent = place, world.dependent_of(*place)
    if dependent is not None and rng.random() < CHANGING:
        follows = reader.conditional[dependent].argmax(1)
        changing = np.flatnonzero(follows != reader.belief((subject, dependent)).argmax())
        if len(changing):
            return int(pick(rng, changing.tolist()))
    first, second = np.argsort(-reader.belief(place), kind="stable")[:2].tolist()
    return first if rng.random() < REINFORCING else second
