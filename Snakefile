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
        [path for verb in ("measure", "benchmark", "world_report") for node in PLAN.of(verb) for path in node.manifests],
