"""The claims of the D4S paper (C1 to C10) and this project's own beside them (X1, X2), each with its rule."""

from d4s.analysis.claim import Claim
from d4s.analysis.rules_cause import norm_as_cause
from d4s.analysis.rules_compare import best_average, least_benchmark_damage, same_as_batch
from d4s.analysis.rules_data import damage_by_form, drivers, target_perplexity
from d4s.analysis.rules_model import falling_success, growing_norm, hidden_forgetting, lower_norm, norm_against_accuracy

CLAIMS = (
    Claim(
        "C1",
        "The targets' perplexity rises from true/false over multiple choice to directly generated.",
        "Both steps in log perplexity per token of the counterfactual targets are above 0.",
        target_perplexity,
        ("fig_objectives", "tab_objectives"),
    ),
    Claim(
        "C2",
        "Directly generated targets damage the model most, true/false targets least.",
        "Both steps in the loss of the benchmark mean, averaged over ROME, MEMIT and, where it was benchmarked, KN, are above 0.",
        damage_by_form,
        ("fig_benchmarks_by_form", "fig_form_matrix", "tab_benchmarks"),
    ),
    Claim(
        "C3",
        "Diversity and length of the targets drive the damage.",
        "In a regression over at least six data sets × models the coefficients of length and of diversity are above 0.",
        drivers,
        ("fig_drivers", "tab_drivers", "fig_objectives"),
    ),
    Claim(
        "C4",
        "With ROME and MEMIT an edit succeeds less often the more edits came before it.",
        "For each, the fitted line of success right after the edit falls by more than 5 points along the sequence.",
        falling_success,
        ("fig_bottleneck",),
    ),
    Claim(
        "C5",
        "The L1 norm of the edited layers grows with the number of edits for ROME and MEMIT.",
        "For each, the growth over the sequence is above 5 % of the unedited norm.",
        growing_norm,
        ("fig_l1_norm", "fig_bottleneck"),
    ),
    Claim(
        "C6",
        "Norm and editing accuracy are strongly negatively correlated.",
        "The pooled correlation of log norm and retained efficacy over runs and lengths is below −0.5.",
        norm_against_accuracy,
        ("fig_norm_vs_accuracy",),
    ),
    Claim(
        "C7",
        "D4S keeps the norm lower than ROME and MEMIT at the same number of edits.",
        "The others' growth minus that of D4S is above 0 at the longest shared length.",
        lower_norm,
        ("fig_l1_norm",),
    ),
    Claim(
        "C8",
        "D4S has the best average of efficacy, paraphrase and specificity.",
        "D4S minus each of the paper's other methods is above 0 at every length of 100 edits or more.",
        best_average,
        ("tab_main", "fig_curves"),
    ),
    Claim(
        "C9",
        "D4S damages the benchmarks least on long sequences.",
        "The change of the benchmark mean with D4S minus that with each of the paper's other methods is above 0.",
        least_benchmark_damage,
        ("tab_benchmarks", "fig_benchmarks_by_dataset"),
    ),
    Claim(
        "C10",
        "Immediate evaluation hides forgetting: with ROME and MEMIT, retained accuracy is much lower.",
        "For each, immediate minus retained efficacy of the same edits is above 10 points.",
        hidden_forgetting,
        ("fig_protocols", "tab_protocols", "fig_retention_by_age"),
    ),
    Claim(
        "X1",
        "The norm causes the decline (our question).",
        "A random change of the same norm costs more than half of the accuracy that the edits cost.",
        norm_as_cause,
        ("fig_norm_cause",),
    ),
    Claim(
        "X2",
        "D4S gives the same scores as one batch edit of the same requests (our question).",
        "Efficacy, paraphrase and specificity all differ by less than 5 points, by an equivalence test.",
        same_as_batch,
        ("tab_main", "tab_key_modes"),
    ),
)
