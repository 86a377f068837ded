"""The groups of claims that a study can name (`claims:`), one per paper; each holds its claims in a module of its own."""

from d4s.registry import Registry

CLAIM_GROUPS = Registry(
    "group of claims",
    {
        "d4s": "d4s.analysis.claims_d4s:CLAIMS",
        "beliefs": "d4s.analysis.claims_beliefs:CLAIMS",
        "saul": "d4s.analysis.claims_saul:CLAIMS",
        "memory": "d4s.analysis.claims_memory:CLAIMS",
        "localisation": "d4s.analysis.claims_localisation:CLAIMS",
        "batches": "d4s.analysis.claims_batches:CLAIMS",
        "collapse": "d4s.analysis.claims_collapse:CLAIMS",
        "robustness": "d4s.analysis.claims_robustness:CLAIMS",
    },
)
