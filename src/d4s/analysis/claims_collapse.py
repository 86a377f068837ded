"""The claims of Yang et al. 2024 on collapse (BU1, BU4, BU5), of the follow-up (BU2, BU3), and ours (BU6), each with its rule."""

from d4s.analysis.claim import Claim
from d4s.analysis.rules_collapse import (
    aggregates_disagree,
    first_short_subjects,
    hard_cases_break_sooner,
    one_edit_collapses,
    one_key_repairs,
    perplexity_tells,
)

CLAIMS = (
    Claim(
        "BU1",
        "One edit can collapse a model.",
        "The share of single edits by ROME with the identity after which perplexity is ten times the unedited model's is above 0.",
        one_edit_collapses,
        ("fig_collapse", "tab_collapse"),
    ),
    Claim(
        "BU2",
        "It is short subjects at the very beginning that collapse it.",
        "Subjects of one token at position 0 collapse the model more often, by more than 5 points, than all others.",
        first_short_subjects,
        ("tab_collapse", "fig_quotient"),
    ),
    Claim(
        "BU3",
        "One key everywhere removes these collapses.",
        "More than 90 % of the edits that collapse the model under ROME with the identity do not under R-ROME.",
        one_key_repairs,
        ("fig_collapse", "fig_quotient"),
    ),
    Claim(
        "BU4",
        "Perplexity tells how much of a model's abilities is lost.",
        "Over edited models, the rank correlation of −log perplexity and the benchmark mean is above 0.5.",
        perplexity_tells,
        ("fig_alarm",),
    ),
    Claim(
        "BU5",
        "Sequences of hard cases collapse a model sooner than normal ones.",
        "For ROME, MEMIT and fine-tuning, normal cases take more than twice as many edits.",
        hard_cases_break_sooner,
        ("fig_survival",),
    ),
    Claim(
        "BU6",
        "Which edits are collapses depends on how perplexity is averaged (our question).",
        "Some single edits are collapses by the mean over rows and not by the perplexity of the whole text.",
        aggregates_disagree,
        ("fig_collapse",),
    ),
)
