"""Which figures and tables a study shows beside those of every study."""

from d4s.analysis.study_results import Results

FREE_GROUP = "free_answers"
LEADERBOARD_GROUP = "leaderboard"
"""Beside the groups of claims: the figures and tables of studies that ask for free answers, and for a leaderboard."""


def shown_groups(results: Results) -> list[str]:
    """The groups whose figures and tables a study shows: those of its claims, free answers and a leaderboard where it asks for them."""
    asked = {
        FREE_GROUP: bool(results.study.get("measure", {}).get("free_answers")),
        LEADERBOARD_GROUP: bool(results.study.get("leaderboard")),
    }
    return [*results.claim_groups, *(group for group, is_asked in asked.items() if is_asked)]
