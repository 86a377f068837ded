"""The claims of the paper on belief revision (BR1 to BR4) and this project's own beside them (BR5), each with its rule."""

from d4s.analysis.claim import Claim
from d4s.analysis.rules_beliefs import dependents_lag, logic_breaks, not_lora_alone, request_learnt, unrelated_stay

CLAIMS = (
    Claim(
        "BR1",
        "An edited model answers its request.",
        "After single edits with LoRA, the share of requests whose answer is the reader's likeliest object is above 90 %.",
        request_learnt,
        ("tab_beliefs",),
    ),
    Claim(
        "BR2",
        "Beliefs that depend on the edited one do not follow.",
        "For dependent facts of the same subject, |p − p_Bayes| after minus before single edits with LoRA is above 10 points.",
        dependents_lag,
        ("tab_beliefs", "fig_beliefs", "fig_dependence"),
    ),
    Claim(
        "BR3",
        "Edits break the logic between an answer and statements about it.",
        "The errors of true and false, of negation, and of and and or each grow by more than 5 points after single edits with LoRA.",
        logic_breaks,
        ("tab_beliefs",),
    ),
    Claim(
        "BR4",
        "Beliefs about another subject and another relation stay.",
        "For those, |p − p_Bayes| grows by less than 5 points after single edits with LoRA.",
        unrelated_stay,
        ("tab_beliefs", "fig_beliefs"),
    ),
    Claim(
        "BR5",
        "It is editing, not LoRA, that leaves dependent beliefs behind (our question).",
        "The effect of BR2 is above 10 points for every other editor that answers its requests as in BR1.",
        not_lora_alone,
        ("tab_beliefs", "fig_dependence"),
    ),
)
