"""Stage `claims`: the verdicts on the claims of the groups that a study names, written as claims.json.

docs/claims.md has the rules in words with their reasons; they were written before
the first study of the group ran.
"""

import logging
from collections.abc import Iterable
from pathlib import Path

from d4s.analysis.claim import Claim, judge
from d4s.analysis.claim_groups import CLAIM_GROUPS
from d4s.analysis.study_results import Results
from d4s.artifacts import write_json

logger = logging.getLogger(__name__)


def claims_of(groups: Iterable[str]) -> list[Claim]:
    """The claims of groups, in order."""
    return [claim for group in groups for claim in CLAIM_GROUPS.load(group)]


def claims(study_dir: Path) -> None:
    """Judge every claim of the study's groups on its gathered results and write claims.json."""
    results = Results(study_dir)
    verdicts = [judge(claim, results) for claim in claims_of(results.claim_groups)]
    write_json(study_dir / "claims.json", verdicts)
    logger.info("claims: %s", ", ".join(f"{entry['id']} {entry['verdict']}" for entry in verdicts))
