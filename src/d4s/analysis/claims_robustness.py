"""The claims of 1-LI on robustness (RO1 to RO4), each with its rule."""

from d4s.analysis.claim import Claim
from d4s.analysis.rules_robustness import better_point, depends_on_cell, edits_cost_robustness, is_monotone

CELLS, WAY = ("fig_robustness", "tab_robustness"), ("fig_interpolation", "tab_robustness")
CLAIMS = (
    Claim(
        "RO1",
        "Edits tend to lower robustness to shifted prompts about other facts.",
        "Accuracy in shifted prompts is more than 1 point below that of ordinary models of the same clean accuracy, for more than half of "
        "the editors, and for none it is not.",
        edits_cost_robustness,
        CELLS,
    ),
    Claim(
        "RO2",
        "How much robustness an edit costs depends on the editor and on the layer.",
        "The best editor and layer is more than 2 points above the worst, on facts that did not choose them.",
        depends_on_cell,
        CELLS,
    ),
    Claim(
        "RO3",
        "On the way to the edited weights of one layer lies a better point.",
        "Where 0.9 of the edits still succeed, more than a quarter of the loss of shifted accuracy is saved.",
        better_point,
        WAY,
    ),
    Claim(
        "RO4",
        "On that way both losses change monotonically.",
        "Between more than 0.9 of neighbouring shares the loss of edited facts falls and that of shifted prompts about others rises.",
        is_monotone,
        WAY,
    ),
)
