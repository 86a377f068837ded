"""The whole chain: a study (params.yaml, or --configfile grids/NAME.yaml) from nothing to results/STUDY/report.html."""

from snakemake.utils import min_version

min_version("9.0")


if not workflow.overwrite_configfiles:

    configfile: "params.yaml"


include: "workflow/rules/common.smk"
include: "workflow/rules/world.smk"
include: "workflow/rules/facts.smk"
include: "workflow/rules/statistics.smk"
include: "workflow/rules/parts.smk"
include: "workflow/rules/paper.smk"


# DVC wants the folder of every kind, also of one that a study makes nothing of.
onstart:
    try:
        for folder in KINDS:
            folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise WorkflowError(f"results cannot be written: {error}; fix that and run the same command again")
    if closed := [str(folder) for folder in (Path("results"), *KINDS) if not os.access(folder, os.W_OK)]:
        raise WorkflowError(f"results cannot be written: {closed[0]} is closed; open it and run the same command again")


rule all:
    default_target: True
    input:
        f"{RESULTS}/report.html",


# The four stages that dvc.yaml knows.
rule inputs:
    input:
        [path for node in PLAN.nodes if node.kind in INPUT_KINDS for path in node.manifests],


rule runs:
    input:
        [path for node in PLAN.of("edit") for path in node.manifests],


rule measures:
    input:
        [path for stage in ("measure", "benchmark", "world_report") for node in PLAN.of(stage) for path in node.manifests],
