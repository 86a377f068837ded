"""Requests and probes of tuning: facts that a model knows, with another object of the same relation as the new target.

A fact is known where the model, after the wording that is edited, has every token of the true object as its likeliest one, or
gives the object a probability of at least `KNOWN_PROBABILITY`. A third of the known subjects of a relation are never edited:
their prompts are the probes of locality.
"""

from collections.abc import Sequence
from itertools import chain, zip_longest

from d4s.errors import SettingsError
from d4s.facts.record import Fact, Probe
from d4s.models.language_model import LanguageModel
from d4s.models.tokens import encode_pairs
from d4s.models.views import LiveModel
from d4s.tuning.common_relations import COMMON_RELATIONS, Relation

KNOWN_PROBABILITY = 0.1
PROBES_PER_FACT = 2
FEWEST_FACTS = 6  # fewer say too little of an editor


def known_facts(model: LanguageModel, relations: Sequence[Relation] = COMMON_RELATIONS) -> list[Fact]:
    """Facts of a table of relations that a model knows, one relation after another in turn, each with a new target and probes."""
    by_relation = [_facts_of(relation, subjects) for relation, subjects in zip(relations, _known_subjects(model, relations), strict=True)]
    return [fact for fact in chain.from_iterable(zip_longest(*by_relation)) if fact is not None]


def check_facts(facts: Sequence[Fact], source: str) -> None:
    """Refuse facts that tuning cannot use.

    Raises:
        SettingsError: if there are too few, or facts have no paraphrase with their subject or no probe of locality; names all.
    """
    remedy = "give --facts FILE with columns subject, prompt, target_new, paraphrase and locality, of what the model knows"
    if len(facts) < FEWEST_FACTS:
        raise SettingsError(f"{source}: {len(facts)} facts to tune with, at least {FEWEST_FACTS} are needed; {remedy}")
    without_paraphrase = [fact.prompt for fact in facts if not paraphrase_templates(fact)]
    without_probe = [fact.prompt for fact in facts if not fact.neighborhood]
    if without_paraphrase or without_probe:
        raise SettingsError(
            f"{source}: tuning measures paraphrases, which hold the subject once, and locality. Without such a paraphrase: "
            f"{without_paraphrase or 'none'}; without a locality prompt: {without_probe or 'none'}; add them, or leave these rows out"
        )


def paraphrase_templates(fact: Fact) -> list[str]:
    """Paraphrases as templates, those that hold the subject once."""
    return [text.replace(fact.subject, "{}") for text in fact.paraphrases if text.count(fact.subject) == 1]


def _known_subjects(model: LanguageModel, relations: Sequence[Relation]) -> list[list[str]]:
    """By relation the subjects whose object the model knows."""
    pairs = _within_vocabulary(model, [(relation, subject) for relation in relations for subject in relation.objects])
    prompts = [relation.wording.replace("{}", subject) for relation, subject in pairs]
    scores = LiveModel(model).score(prompts, [relation.objects[subject] for relation, subject in pairs])
    is_known = scores.exact() | ((-scores.joint_nll()).exp() >= KNOWN_PROBABILITY)
    known = {(relation.name, subject) for (relation, subject), found in zip(pairs, is_known.tolist(), strict=True) if found}
    return [[subject for subject in relation.objects if (relation.name, subject) in known] for relation in relations]


def _within_vocabulary(model: LanguageModel, pairs: Sequence[tuple[Relation, str]]) -> list[tuple[Relation, str]]:
    """Pairs of relation and subject without words that the tokenizer has no token for."""
    unknown = model.tokenizer.unk_token_id
    prompts = [relation.wording.replace("{}", subject) for relation, subject in pairs]
    encoded = encode_pairs(model, prompts, [relation.objects[subject] for relation, subject in pairs])
    return [pair for pair, (ids, target) in zip(pairs, encoded, strict=True) if unknown is None or unknown not in (*ids, *target)]


def _facts_of(relation: Relation, subjects: Sequence[str]) -> list[Fact]:
    """Known subjects of a relation as facts; every third is a probe of the others. None where nothing is left to be probed or changed."""
    probes, edited = subjects[2::3], [subject for number, subject in enumerate(subjects) if number % 3 != 2]
    objects = list(dict.fromkeys(relation.objects[subject] for subject in subjects))
    if not probes or len(objects) < 2:
        return []
    return [_fact(relation, subject, objects, [*probes, *probes][number % len(probes) :]) for number, subject in enumerate(edited)]


def _fact(relation: Relation, subject: str, objects: Sequence[str], probes: Sequence[str]) -> Fact:
    """A fact whose new target is the next other object of its relation."""
    true = relation.objects[subject]
    return Fact(
        fact_id=f"{relation.name}:{subject}",
        dataset="common_relations",
        relation=relation.name,
        subject=subject,
        template=relation.wording,
        target_true=true,
        target_new=objects[(objects.index(true) + 1) % len(objects)],
        paraphrases=tuple(wording.replace("{}", subject) for wording in relation.paraphrases),
        neighborhood=tuple(
            Probe("neighborhood", relation.wording.replace("{}", other), relation.objects[other])
            for other in dict.fromkeys(probes[:PROBES_PER_FACT])
        ),
    )
