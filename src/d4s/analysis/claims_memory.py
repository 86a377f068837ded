"""The claims of SERAC (SE1 to SE3) and questions of this project beside them (SE4, SE5), each with its rule."""

from d4s.analysis.claim import Claim
from d4s.analysis.rules_memory import (
    decides_better_than_it_mixes,
    edits_better,
    near_misses_matter,
    router_is_the_bottleneck,
    stays_with_many_edits,
)

SHOWN_IN = ("fig_memory", "tab_memory")
CLAIMS = (
    Claim(
        "SE1",
        "SERAC edits better than editors of weights.",
        "Its average of efficacy, paraphrase and specificity minus that of FT-M, of ROME and of MEMIT is above 0.",
        edits_better,
        SHOWN_IN,
    ),
    Claim(
        "SE2",
        "SERAC stays right with many edits.",
        "From 10 to 300 edits the first 10 lose less than 5 points of efficacy and of specificity.",
        stays_with_many_edits,
        SHOWN_IN,
    ),
    Claim(
        "SE3",
        "Near misses among the negatives matter.",
        "Specificity on near misses is more than 5 points above that of a router trained without them.",
        near_misses_matter,
        SHOWN_IN,
    ),
    Claim(
        "SE4",
        "The router is the bottleneck (our question).",
        "More than half of the failed paraphrases did not reach their entry; undecided below 20 failures in a draw.",
        router_is_the_bottleneck,
        ("tab_memory",),
    ),
    Claim(
        "SE5",
        "A decision beats a mixture (our question).",
        "Specificity minus that of SERAC with mixed answers is above 0.",
        decides_better_than_it_mixes,
        ("tab_memory",),
    ),
)
