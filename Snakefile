"""The whole chain: a study (params.yaml, or --configfile grids/NAME.yaml) from nothing to results/STUDY/report.html."""

from snakemake.utils import min_version

min_version("9.27")


if not workflow.overwrite_configfiles:

    configfile: "params.yaml"


include: "workflow/rules/common.smk"


wildcard_constraints:
    world=PLAN.names("world"),
    beliefs=PLAN.names("beliefs"),
    facts=PLAN.names("facts"),
    questions=PLAN.names("questions"),
    problem=PLAN.names("problem"),
    subset=PLAN.names("subset"),
    corpus=PLAN.names("corpus"),
    trained=PLAN.names("pretrain"),
    adopted=PLAN.names("adopt"),
    asked=PLAN.names("start"),
    report=PLAN.names("world_report"),
    posterior=PLAN.names("posterior"),
    contexts=PLAN.names("contexts"),
    moments=PLAN.names("moments"),
    prepared=PLAN.names("prepare"),
    baseline=PLAN.names("baseline"),
    targets=PLAN.names("targets"),
    traces=PLAN.names("trace"),
    objectives=PLAN.names("objectives"),
    run=PLAN.names("edit"),
    singles=PLAN.names("edit_single"),
    cases=PLAN.names("hard_cases"),
    measures=PLAN.names("measure"),
    answers=PLAN.names("answer"),
    verdicts=PLAN.names("judge"),
    benchmarks=PLAN.names("benchmark"),
    ordinary=PLAN.names("ordinary"),
    robustness=PLAN.names("robustness"),
    layers="[-a-z0-9]+",
    blocks="[-a-z0-9]+",
    lengths="[-a-z0-9]+",
    shard="[-a-z0-9]+",


include: "workflow/rules/world.smk"
include: "workflow/rules/facts.smk"
include: "workflow/rules/preparation.smk"
include: "workflow/rules/runs.smk"
include: "workflow/rules/paper.smk"


INPUT_STAGES = (
    "world",
    "beliefs",
    "facts",
    "questions",
    "problem",
    "corpus",
    "pretrain",
    "adopt",
    "start",
    "posterior",
    "contexts",
    "moments",
    "prepare",
    "baseline",
    "targets",
    "objectives",
    "trace",
)
# DVC wants the folder of every kind, also of one that a study makes nothing of.
KINDS = [STORE / kind for kind in dict.fromkeys(stage.kind for stage in STAGES.values())]


onstart:
    try:
        for folder in KINDS:
            folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise WorkflowError(f"results cannot be written: {error}; fix that and run the same command again")
    if closed := [str(folder) for folder in (Path("results"), *KINDS) if not os.access(folder, os.W_OK)]:
        raise WorkflowError(f"results cannot be written: {closed[0]} is closed; open it and run the same command again")
    # What `-R`, `-f` or `-F` ask for is made again in full: its jobs find none of the parts that are there.
    if not workflow.touch:
        stored = [job for job in workflow.dag.needrun_jobs() if job.rule.name in STAGES and workflow.dag.reason(job).forced]
        forget(path for job in stored for path in job.output)


rule all:
    default_target: True
    input:
        f"{RESULTS}/report.html",


# The four stages that dvc.yaml knows.
rule inputs:
    input:
        PLAN.markers(*INPUT_STAGES),


rule runs:
    input:
        PLAN.markers("edit", "edit_single", "hard_cases"),


rule measures:
    input:
        PLAN.markers("measure", "answer", "judge", "ordinary", "robustness", "benchmark", "world_report"),
