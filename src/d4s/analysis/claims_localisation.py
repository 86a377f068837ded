"""The claims of Hase et al. 2023 on localisation and editing (LO1 to LO4), and this project's own beside them (LO5), each with its rule."""

from d4s.analysis.claim import Claim
from d4s.analysis.rules_localisation import (
    forcing_relates_more,
    layer_decides,
    no_relation_at_usual_layer,
    one_layer_for_all,
    tracing_adds_nothing,
)

CLAIMS = (
    Claim(
        "LO1",
        "Tracing adds nothing: beside the edited layer, the tracing effect does not explain how well an error is injected.",
        "For each method, tracing raises the adjusted R² of the rewrite score by less than 0.05.",
        tracing_adds_nothing,
        ("fig_localisation", "tab_localisation"),
    ),
    Claim(
        "LO2",
        "The layer decides: which layer is edited explains most of how well an error is injected.",
        "For each method, the adjusted R² of the edited layer alone is above 0.5.",
        layer_decides,
        ("fig_localisation", "tab_localisation"),
    ),
    Claim(
        "LO3",
        "At the layer that ROME usually edits, facts with a larger tracing effect are not rewritten better.",
        "The correlation of rewrite score and tracing effect at that layer is below 0.1.",
        no_relation_at_usual_layer,
        ("fig_rewrite_effect",),
    ),
    Claim(
        "LO4",
        "Tracing says more about forcing, which starts from the noised prompt, than about injection.",
        "For fine-tuning, tracing raises the R² of forcing by at least 0.01 more than that of injection.",
        forcing_relates_more,
        ("fig_localisation", "tab_localisation"),
    ),
    Claim(
        "LO5",
        "The best layer is one for all facts (our question).",
        "For each method, more than half of the facts score within 0.05 of their own best layer at the best common one.",
        one_layer_for_all,
        ("fig_rewrite_effect",),
    ),
)
