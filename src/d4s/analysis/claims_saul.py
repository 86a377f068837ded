"""The claims of SAUL (SA1 to SA3, SA5) and a question of this project beside them (SA4), each with its rule."""

from d4s.analysis.claim import Claim
from d4s.analysis.rules_saul import concatenation_helps, edits_as_well, is_cheaper, keeps_fluency, keeps_unrelated_facts

SHOWN_IN = ("fig_fluency", "tab_saul")
CLAIMS = (
    Claim(
        "SA1",
        "Mass editing by SAUL edits at least as well as editors that locate facts.",
        "Its average of efficacy, paraphrase and specificity minus that of ROME and of MEMIT is above 0.",
        edits_as_well,
        ("tab_saul",),
    ),
    Claim(
        "SA2",
        "SAUL keeps what the model writes fluent.",
        "The n-gram entropy is more than 0.10 bits above that after fine-tuning alone, and less than 0.30 bits below the unedited model's.",
        keeps_fluency,
        SHOWN_IN,
    ),
    Claim(
        "SA3",
        "SAUL keeps unrelated facts.",
        "Specificity is more than 5 points above that after fine-tuning alone.",
        keeps_unrelated_facts,
        ("tab_saul",),
    ),
    Claim(
        "SA4",
        "Appending the true sentences is what helps, not having them (our question).",
        "Entropy and specificity minus those after fine-tuning on the same sentences apart are both above 0.",
        concatenation_helps,
        SHOWN_IN,
    ),
    Claim(
        "SA5",
        "An edit by SAUL costs less than one by MEMIT.",
        "The log of MEMIT's processor time per edit over that of SAUL, what is prepared included, is above 0.",
        is_cheaper,
        ("tab_saul", "tab_costs"),
    ),
)
