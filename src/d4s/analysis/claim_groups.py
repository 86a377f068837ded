"""The groups of claims that a study can name (`claims:`), one per paper; each holds its claims in a module of its own."""

from collections.abc import Mapping
from dataclasses import dataclass

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


@dataclass(frozen=True, slots=True)
class Paper:
    """Where a group of claims is from, and the question that a study of it answers."""

    title: str
    authors: str
    question: str


PAPERS: Mapping[str, Paper] = {
    "d4s": Paper(
        "Reasons and Solutions for the Decline in Model Performance after Editing",
        "Huang et al. 2024",
        "Why do language models get worse as more and more facts are edited into them?",
    ),
    "saul": Paper(
        "Better Call SAUL: Fluent and Consistent Language Model Editing with Generation Regularization",
        "Wang et al. 2024",
        "Does fine-tuning with a true sentence behind each target keep a model fluent?",
    ),
    "memory": Paper(
        "Memory-Based Model Editing at Scale",
        "Mitchell et al. 2022",
        "Does a memory of edits with a router stay right where edits of weights do not?",
    ),
    "beliefs": Paper(
        "Fundamental Problems With Model Editing: How Should Rational Belief Revision Work in LLMs?",
        "Hase et al. 2024",
        "Does an edited model revise the beliefs that depend on the edited one?",
    ),
    "batches": Paper(
        "Is Bigger Edit Batch Size Always Better?",
        "Yoon et al. 2024",
        "At which layer, and in batches of which size, are edits made best?",
    ),
    "collapse": Paper(
        "The Butterfly Effect of Model Editing: Few Edits Can Trigger Large Language Models Collapse",
        "Yang et al. 2024",
        "Can one edit ruin a language model, and which edits do?",
    ),
    "robustness": Paper(
        "Edit at your own risk: evaluating the robustness of edited models to distribution shifts",
        "Brown et al. 2023",
        "What does an edit cost on prompts that are worded otherwise?",
    ),
    "localisation": Paper(
        "Does Localization Inform Editing?",
        "Hase et al. 2023",
        "Does tracing where a model looks a fact up say where to edit it?",
    ),
}
"""The paper behind each group of claims; questions of our own stand in its group too, and say so."""
