"""The stages that make artefacts: kind of artefact, entry function, and the settings each accepts."""

from dataclasses import dataclass

from d4s.registry import Registry


@dataclass(frozen=True)
class Stage:
    """One stage of the chain as the CLI and the workflow know it."""

    kind: str
    entry: str
    settings: str
    help: str
    part: str | None = None
    """Letter of the manifests of its numbered parts; empty where its only part is `manifest.json`, None where that is declared itself."""

    @property
    def module(self) -> str:
        """Module of the entry function, which is what the code digest starts from."""
        return self.entry.split(":")[0]


STAGES: dict[str, Stage] = {
    "world": Stage(
        "worlds", "d4s.world.world_stage:world", "d4s.config:WorldSettings", "Make people, relations, events and benchmark items."
    ),
    "beliefs": Stage(
        "worlds", "d4s.world.beliefs:beliefs", "d4s.config:BeliefsSettings", "Make a graph of facts that depend on others, and statements."
    ),
    "facts": Stage(
        "facts",
        "d4s.facts.facts_stage:facts",
        "d4s.config:FactsSettings",
        "Read records, or the world, into facts; broken records are named.",
    ),
    "questions": Stage(
        "facts",
        "d4s.questions.question_facts:questions",
        "d4s.config:QuestionsSettings",
        "Ask if-then events in one form: true/false, multiple choice, or for direct generation.",
    ),
    "problem": Stage(
        "facts",
        "d4s.runs.problem_stage:problem",
        "d4s.config:ProblemSettings",
        "Turn facts into requests of another problem: the present answer, or the one to the noised prompt.",
    ),
    "subset": Stage(
        "facts", "d4s.facts.subset_stage:subset", "d4s.config:SubsetSettings", "Keep facts of a data set: those of a list, or hard cases."
    ),
    "corpus": Stage(
        "corpora", "d4s.pretraining.corpus:corpus", "d4s.config:CorpusSettings", "Write training text and tokenizer for a small model."
    ),
    "pretrain": Stage(
        "models", "d4s.pretraining.train:pretrain", "d4s.config:PretrainSettings", "Train the small model; resumes where it was stopped."
    ),
    "adopt": Stage("models", "d4s.models.adopt:adopt", "d4s.config:AdoptSettings", "Point to a model from a folder or the hub."),
    "start": Stage("models", "d4s.models.start:start", "d4s.config:StartSettings", "The same model, asked without BOS."),
    "posterior": Stage(
        "posteriors",
        "d4s.world.posterior:posterior",
        "d4s.config:PosteriorSettings",
        "What a Bayesian reader of a world's statements believes before and after each request.",
    ),
    "objectives": Stage(
        "objectives",
        "d4s.metrics.objectives:objectives",
        "d4s.config:ObjectivesSettings",
        "Perplexity and length of the edit targets under the unedited model.",
        "",
    ),
    "contexts": Stage("contexts", "d4s.editors.contexts:contexts", "d4s.config:ContextsSettings", "Sample the prompt prefixes."),
    "moments": Stage(
        "moments",
        "d4s.editors.moments:moments",
        "d4s.config:MomentsSettings",
        "Second moments of the keys, all wanted layers in one pass; the output is done/LAYERS.json.",
        "l",
    ),
    "targets": Stage(
        "targets",
        "d4s.editors.target_optimisation:targets",
        "d4s.editors.parts.input_settings:TargetsJobSettings",
        "Target hidden states of blocks of requests at the original weights; the output is done/BLOCKS.json.",
        "b",
    ),
    "trace": Stage(
        "traces",
        "d4s.runs.trace_stage:trace",
        "d4s.config:TraceJobSettings",
        "Causal tracing of the first facts of a draw; the output is done/FACTS.json.",
        "n",
    ),
    "prepare": Stage(
        "prepared",
        "d4s.editors.preparation:prepare",
        "d4s.editors.parts.input_settings:PrepareSettings",
        "Whatever else an editor needs, e.g. a projector.",
    ),
    "baseline": Stage(
        "baselines",
        "d4s.runs.baseline:baseline",
        "d4s.runs.run_settings:BaselineSettings",
        "What the unedited model answers, once for all editors; the output is done/BLOCKS.json, or done/BLOCKS-whole.json.",
        "b",
    ),
    "edit": Stage(
        "runs",
        "d4s.runs.edit_stage:edit",
        "d4s.runs.run_settings:RunSettings",
        "Edit one sequence, continuing its ledger; the output is done/LENGTHS.json.",
        "n",
    ),
    "edit_single": Stage(
        "singles",
        "d4s.runs.single_stage:edit_single",
        "d4s.runs.run_settings:SingleSettings",
        "Edit every request of blocks alone, from the original weights, and ask about each; the output is done/BLOCKS.json.",
        "b",
    ),
    "hard_cases": Stage(
        "cases",
        "d4s.analysis.hard_cases:hard_cases",
        "d4s.config:HardCasesJobSettings",
        "Rank single edits by what they do to the perplexity of text; the hardest, and others beside them.",
    ),
    "measure": Stage(
        "measures",
        "d4s.runs.measure:measure",
        "d4s.runs.run_settings:MeasureJobSettings",
        "Scores, perplexity and norms of a run at the lengths asked for; the output is done/LENGTHS.json.",
        "n",
    ),
    "answer": Stage(
        "free_answers",
        "d4s.runs.answer_stage:answer",
        "d4s.runs.run_settings:AnswerJobSettings",
        "What a run's states answer to raw prompts at the lengths asked for; the output is done/LENGTHS.json.",
        "n",
    ),
    "judge": Stage(
        "verdicts",
        "d4s.judging.judge_stage:judge",
        "d4s.config:JudgeSettings",
        "Judge free answers, by a rule or a language model; the output is done/LENGTHS.json.",
        "n",
    ),
    "ordinary": Stage(
        "ordinary",
        "d4s.runs.robustness_stage:ordinary",
        "d4s.config:OrdinaryJobSettings",
        "Shifted prompts put to the unedited model, and to those kept on the way of its training.",
    ),
    "robustness": Stage(
        "robustness",
        "d4s.runs.robustness_stage:robustness",
        "d4s.runs.run_settings:RobustnessJobSettings",
        "Shifted prompts put to a run's models at shares of their change of weights; the output is done/LENGTHS.json.",
        "n",
    ),
    "benchmark": Stage(
        "benchmarks",
        "d4s.runs.benchmark:benchmark",
        "d4s.runs.run_settings:BenchmarkJobSettings",
        "Benchmark tasks on a run's states through lm-evaluation-harness; the output is done/LENGTHS.json.",
        "n",
    ),
    "world_report": Stage(
        "reports",
        "d4s.runs.world_report:world_report",
        "d4s.runs.run_settings:WorldReportSettings",
        "Check a model trained on the world by criteria that favour no editor.",
    ),
}

SETTINGS = Registry("stage", {name: stage.settings for name, stage in STAGES.items()})
ENTRIES = Registry("stage", {name: stage.entry for name, stage in STAGES.items()})
