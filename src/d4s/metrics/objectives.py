"""Stage `objectives`: perplexity and length of a data set's targets under the unedited model."""

from collections.abc import Sequence
from math import nan
from typing import Any

from d4s.artifacts import MANIFEST, StageJob, write_table
from d4s.config import ObjectivesSettings
from d4s.facts.record import Fact, from_frame
from d4s.models.edited_model import EditedModel
from d4s.models.loading import load
from d4s.models.views import LiveModel
from d4s.questions.event_templates import labels_like
from d4s.schemas import FACTS, OBJECTIVES

FILE = "objectives.parquet"


def objectives(job: StageJob[ObjectivesSettings]) -> None:
    """Write negative log-likelihoods of counterfactual and true targets after the edit prompts."""
    if not [*job.missing_parts()]:
        return
    facts = from_frame(job.artifact("facts", "facts").table("facts.parquet", FACTS))
    rows = target_rows(LiveModel(job.read_once("model", load)), [fact for fact in facts if fact.editable])
    write_table(job.path(FILE), rows, OBJECTIVES)
    job.write_manifest([FILE], MANIFEST)


def target_rows(model: EditedModel, facts: Sequence[Fact]) -> list[dict[str, Any]]:
    """Rows of OBJECTIVES, in nats: per fact its new target and, where it has one, its true target, after the edit prompt."""
    targets = [(fact, name, text) for fact in facts for name, text in (("new", fact.target_new), ("true", fact.target_true)) if text]
    scores = model.score([fact.prompt for fact, _, _ in targets], [text for _, _, text in targets])
    counts, means, first, joint = scores.mask.sum(1), scores.mean_nll(), scores.nll[:, :1].sum(1), scores.joint_nll()
    label_mass = _label_mass(model, facts)
    return [
        {
            "fact_id": fact.fact_id,
            "target": name,
            "n_tokens": int(counts[row]),
            "nll_per_token": float(means[row]),
            "nll_first_token": float(first[row]),
            "nll_joint": float(joint[row]),
            "label_mass": label_mass.get(fact.fact_id, nan),
            "text": text,
        }
        for row, (fact, name, text) in enumerate(targets)
    ]


def _label_mass(model: EditedModel, facts: Sequence[Fact]) -> dict[str, float]:
    """Probability that a question's answer is one of the labels that it offers, by fact; facts with a phrase are left out."""
    asked = [(fact, label) for fact in facts for label in labels_like(fact.target_new)]
    if not asked:
        return {}
    joint = model.score([fact.prompt for fact, _ in asked], [label for _, label in asked]).joint_nll()
    found: dict[str, float] = {}
    for (fact, _), probability in zip(asked, joint.neg().exp().tolist(), strict=True):
        found[fact.fact_id] = found.get(fact.fact_id, 0.0) + probability
    return found
