"""The verbs that make artefacts: kind of artefact, entry function, and the settings each accepts."""

from dataclasses import dataclass

from d4s.registry import Registry


@dataclass(frozen=True)
class Verb:
    """One stage of the chain as the CLI and the workflow know it."""

    kind: str
    entry: str
    settings: str
    help: str

    @property
    def module(self) -> str:
        """Module of the entry function, which is what the code digest starts from."""
        return self.entry.split(":")[0]


VERBS: dict[str, Verb] = {
    "world": Verb("worlds", "d4s.world.build:world", "d4s.config:WorldSettings", "Make people, relations, events and benchmark items."),
    "facts": Verb(
        "facts", "d4s.facts.collect:facts", "d4s.config:FactsSettings", "Read records, or the world, into facts; broken records are named."
    ),
    "questions": Verb(
        "facts",
        "d4s.questions.build:questions",
        "d4s.config:QuestionsSettings",
        "Ask if-then events in one form: true/false, multiple choice, or for direct generation.",
    ),
    "corpus": Verb(
        "corpora", "d4s.pretraining.corpus:corpus", "d4s.config:CorpusSettings", "Write training text and tokenizer for a small model."
    ),
    "pretrain": Verb(
        "models", "d4s.pretraining.train:pretrain", "d4s.config:PretrainSettings", "Train the small model; resumes where it was stopped."
    ),
    "adopt": Verb("models", "d4s.models.adopt:adopt", "d4s.config:AdoptSettings", "Point to a model from a folder or the hub."),
    "objectives": Verb(
        "objectives",
        "d4s.metrics.objectives:objectives",
        "d4s.config:ObjectivesSettings",
        "Perplexity and length of the edit targets under the unedited model.",
    ),
    "contexts": Verb("contexts", "d4s.editors.contexts:contexts", "d4s.config:ContextsSettings", "Sample the prompt prefixes."),
    "moments": Verb(
        "moments",
        "d4s.statistics.moments:moments",
        "d4s.config:MomentsSettings",
        "Second moments of the keys, all wanted layers in one pass; outputs are lLAYER.json.",
    ),
    "targets": Verb(
        "targets",
        "d4s.editors.targets:targets",
        "d4s.editors.parts:TargetsJobSettings",
        "Target hidden states of blocks of requests at the original weights; outputs are bBLOCK.json.",
    ),
    "prepare": Verb(
        "prepared",
        "d4s.editors.prepare:prepare",
        "d4s.editors.parts:PrepareSettings",
        "Whatever else an editor needs, e.g. a projector.",
    ),
    "baseline": Verb(
        "baselines",
        "d4s.runs.baseline:baseline",
        "d4s.runs.settings:BaselineSettings",
        "What the unedited model answers, once for all editors: blocks of requests, bBLOCK.json, and whole.json.",
    ),
    "edit": Verb(
        "runs", "d4s.runs.edit:edit", "d4s.runs.settings:RunSettings", "Edit one sequence; outputs are nLENGTH.json; continues its ledger."
    ),
    "measure": Verb(
        "measures",
        "d4s.runs.measure:measure",
        "d4s.runs.settings:MeasureJobSettings",
        "Scores, perplexity and norms of a run at the lengths asked for; outputs are nLENGTH.json.",
    ),
    "benchmark": Verb(
        "benchmarks",
        "d4s.runs.benchmark:benchmark",
        "d4s.runs.settings:BenchmarkJobSettings",
        "Benchmark tasks on a run's states through lm-evaluation-harness; outputs are nLENGTH.json.",
    ),
    "world_report": Verb(
        "reports",
        "d4s.studies.world_report:world_report",
        "d4s.runs.settings:WorldReportSettings",
        "Hold a model that was taught the world against criteria that favour no editor.",
    ),
}

SETTINGS = Registry("verb", {name: verb.settings for name, verb in VERBS.items()})
ENTRIES = Registry("verb", {name: verb.entry for name, verb in VERBS.items()})
