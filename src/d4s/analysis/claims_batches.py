"""The claims of the paper on batch size (BS1 to BS3) and this project's own beside them (BS4, BS5), each with its rule."""

from d4s.analysis.claim import Claim
from d4s.analysis.rules_batches import early_layer, flattering_reading, locality_by_size, memory_removes_size, sequential_batches

CLAIMS = (
    Claim(
        "BS1",
        "Single edits succeed best at an early layer.",
        "S at the best layer of the first quarter minus S at the best of the others is above 0, for every editor that was swept.",
        early_layer,
        ("fig_layers",),
    ),
    Claim(
        "BS2",
        "One batch costs more specificity the larger it is.",
        "For each editor without memory, specificity after the smallest batch from 16 on minus that after the largest is above 5 points.",
        locality_by_size,
        ("fig_batches", "tab_batches"),
    ),
    Claim(
        "BS3",
        "Several batches in sequence are better than all requests at once.",
        "For each editor without memory, retained S of four batches minus that of one batch of the same requests is above 0.",
        sequential_batches,
        ("fig_batches", "tab_batches"),
    ),
    Claim(
        "BS4",
        "With memory of earlier keys the size of batches does not matter (our question).",
        "For key history, retained S in batches of every size is within 2 points of that of one batch, by an equivalence test.",
        memory_removes_size,
        ("fig_batches", "tab_batches"),
    ),
    Claim(
        "BS5",
        "Scores read right after their own batch flatter small batches (our question).",
        "For each editor without memory, immediate S minus retained S at the smallest batch is above 5 points.",
        flattering_reading,
        ("fig_batches", "tab_batches"),
    ),
)
