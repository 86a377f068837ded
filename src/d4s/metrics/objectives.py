"""Stage `objectives`: perplexity and length of a data set's targets under the unedited model."""

from collections.abc import Sequence
from typing import Any

from d4s.artifacts import MANIFEST, StageJob, write_table
from d4s.config import ObjectivesSettings
from d4s.facts.record import Fact, from_frame
from d4s.models.edited_model import EditedModel
from d4s.models.loading import load
from d4s.models.views import LiveModel
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
    return [
        {
            "fact_id": fact.fact_id,
            "target": name,
            "n_tokens": int(counts[row]),
            "nll_per_token": float(means[row]),
            "nll_first_token": float(first[row]),
            "nll_joint": float(joint[row]),
            "text": text,
        }
        for row, (fact, name, text) in enumerate(targets)
    ]
