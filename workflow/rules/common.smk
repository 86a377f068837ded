"""The study resolved into a plan, and everything that rules share: paths, settings, constraints."""

import os
import json
import re
import shlex
import sys
from base64 import urlsafe_b64decode
from dataclasses import replace
from pathlib import Path

from snakemake.exceptions import WorkflowError

sys.path.insert(0, str(Path(workflow.basedir) / "src"))

from d4s.config import Study, canonical, validate
from d4s.errors import D4SError
from d4s.resources.machine_speed import SLOW_DEVICE, SLOW_HOST
from d4s.study.code_digests import ROOT, SOURCE_VARIABLE, code_digest, source_digest
from d4s.study.graph import STORE
from d4s.resources.job_estimates import ResourceEstimates
from d4s.study.resolve import plain_values, resolve, results_folder

try:
    STUDY = validate(Study, config, "the study")
    PLAN = resolve(STUDY)
except D4SError as error:
    raise WorkflowError(str(error))

RESULTS = str(results_folder(STUDY))
INPUT_KINDS = ("worlds", "facts", "corpora", "models", "objectives", "contexts", "moments", "targets", "prepared", "baselines")
KINDS = [STORE / kind for kind in (*INPUT_KINDS, "runs", "measures", "benchmarks", "reports")]
NODES = {node.name: node for node in PLAN.nodes}
ESTIMATES = ResourceEstimates(PLAN, has_device=True)
LOGS = "results/logs"


def plain_text(text):
    """A text as Snakemake takes it where it looks for wildcards."""
    return str(text).replace("{", "{{").replace("}", "}}")


ENVIRONMENT = plain_text(f"{workflow.basedir}/environment.yml")

# Jobs run this checkout's code, or end: an installed copy of the package may come first all the same.
if ROOT != Path(workflow.basedir, "src", "d4s").resolve():
    raise WorkflowError(f"the package in {ROOT} was imported before this checkout's; start Snakemake without it")
if ":" in str(ROOT):
    raise WorkflowError(f"{workflow.basedir} has a colon in its name, which no search path of Python can hold; move the checkout")
VARIABLES = {
    "PYTHONPATH": str(ROOT.parent),
    SOURCE_VARIABLE: source_digest(),
    "D4S_STATE_DEVICE": STUDY.execution.state_device,
}
EXPORTS = "export " + " ".join(f"{name}={shlex.quote(value)}" for name, value in VARIABLES.items())
shell.prefix(plain_text(EXPORTS) + "; ")


# On a cluster two Snakemakes stand beside each job, in the memory that the job asks for.
SNAKEMAKE_MB = 500


def resources_of(node):
    """What the rule of an artefact asks for, with room for those beside it, and never more time than a job may have."""
    asked = ESTIMATES.resources(node)
    minutes = min(asked.runtime, STUDY.execution.time_limit or asked.runtime)
    return replace(asked, mem_mb=asked.mem_mb + SNAKEMAKE_MB, runtime=minutes)


RESOURCES = {node.name: resources_of(node) for node in PLAN.nodes}


def names(stage):
    """A regular expression that matches the folder names of one stage's artefacts, and nothing else."""
    return "|".join(re.escape(node.name) for node in PLAN.of(stage)) or "(?!)"


def output_of(stage):
    """The manifest of artefacts that have exactly one, with the folder's name as wildcard."""
    kind = PLAN.of(stage)[0].kind if PLAN.of(stage) else stage
    return f"{STORE}/{kind}/{{name}}/manifest.json"


def incomplete_outputs():
    """Outputs that killed jobs have left behind, by the marks that Snakemake keeps of them."""
    marks = Path(".snakemake/incomplete")
    names = ("".join(part.removeprefix("@") for part in mark.relative_to(marks).parts) for mark in marks.rglob("*") if mark.is_file())
    return frozenset(urlsafe_b64decode(name).decode() for name in names)


INCOMPLETE = incomplete_outputs()


def without_timestamps(paths):
    """Inputs whose times mean nothing, since their paths say what they are.

    But for what killed jobs have left: a job that makes such a file again would hide everything that hangs on it from
    Snakemake if those inputs were ancient too, and a run would end early without a word.
    """
    return [str(path) if str(path) in INCOMPLETE else ancient(str(path)) for path in paths]


def inputs_of(wildcards):
    return without_timestamps(NODES[wildcards.name].input_files)


def stage_of(wildcards):
    return NODES[wildcards.name].stage


def settings_of(wildcards):
    return NODES[wildcards.name].settings_text


def roles_of(wildcards):
    return NODES[wildcards.name].inputs_text


def code_of(wildcards):
    return NODES[wildcards.name].code


def mem_mb_of(wildcards):
    return RESOURCES[wildcards.name].mem_mb


def runtime_of(wildcards):
    return RESOURCES[wildcards.name].runtime


def gpu_of(wildcards):
    return RESOURCES[wildcards.name].gpu


def rule_name(name):
    """The name of a rule that makes artefacts in parts."""
    return re.sub(r"\W", "_", name)


def processes():
    """The jobs that make artefacts in parts: a name, and each artefact with the manifests that the job makes of it."""
    are_shared = [stage for stage in ("moments", "targets") if getattr(STUDY.execution.shards, stage) > 1]
    for node in [node for stage in are_shared for node in PLAN.of(stage)]:
        shards = node.shards(getattr(STUDY.execution.shards, node.stage))
        for number, manifests in enumerate(shards, start=1):
            yield f"{node.stage}/{node.name}.{number}of{len(shards)}", [(node, manifests)]
    for nodes in PLAN.process_groups(without=are_shared):
        yield f"{nodes[0].stage}/{nodes[0].name}", [(node, node.manifests) for node in nodes]


def calls_of(wildcards, output):
    """What a job that makes artefacts in parts is told of each, in order.

    A param that is derived from the output is no trigger: settings, inputs and code are in the paths, and what a process makes
    beside a part, such as one length more or less, does not make the part again.
    """
    folders = dict.fromkeys(Path(path).parent for path in output)
    return json.dumps({str(folder): NODES[folder.name].call for folder in folders})


def inputs_of_process(artifacts):
    """Files that must exist before a job that makes several artefacts starts."""
    own = {node.folder for node, _ in artifacts}
    return dict.fromkeys(path for node, _ in artifacts for path in node.input_files if path.parent not in own)


def runtime_of_process(artifacts):
    """Minutes of a job that makes several artefacts, and never more than a job may have."""
    minutes = sum(RESOURCES[node.name].runtime for node, _ in artifacts)
    return min(minutes, STUDY.execution.time_limit or minutes)


def priority_of(artifacts):
    """The longest jobs first, so that none is left over when all others are done."""
    return round(sum(job.seconds(SLOW_HOST, SLOW_DEVICE) for node, _ in artifacts for job in ESTIMATES.of(node)))
