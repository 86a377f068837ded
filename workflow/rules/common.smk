"""The study resolved into a plan, and what rules look up in it; the first wildcard of a rule is the folder of its artefact."""

import os
import json
import shlex
import sys
from pathlib import Path

from snakemake.exceptions import WorkflowError

sys.path.insert(0, str(Path(workflow.basedir) / "src"))

from d4s.analysis.claim_groups import CLAIM_GROUPS
from d4s.errors import D4SError
from d4s.resources.rule_resources import RuleResourceTable
from d4s.settings_base import canonical, validate
from d4s.study.code_digests import ROOT, SOURCE_VARIABLE, code_digest, source_digest
from d4s.study.graph import STORE
from d4s.study.prune import forget
from d4s.study.resolve import plain_values, resolve, results_folder
from d4s.study.rule_lookups import RuleLookups
from d4s.study.stages import STAGES
from d4s.study_settings import Study

# Jobs run this checkout's code, or end: an installed copy of the package may come first all the same.
if ROOT != Path(workflow.basedir, "src", "d4s").resolve():
    raise WorkflowError(f"the package in {ROOT} was imported before this checkout's; start Snakemake without it")
if ":" in str(ROOT):
    raise WorkflowError(f"{workflow.basedir} has a colon in its name, which no search path of Python can hold; move the checkout")
try:
    STUDY = validate(Study, config, "the study")
    PLAN = RuleLookups(resolve(STUDY))
except D4SError as error:
    raise WorkflowError(str(error))
RESOURCES = RuleResourceTable(PLAN)
RESULTS, LOGS = str(results_folder(STUDY)), "results/logs"


def plain_text(text):
    """A text as Snakemake takes it where it looks for wildcards."""
    return str(text).replace("{", "{{").replace("}", "}}")


ENVIRONMENT = plain_text(f"{workflow.basedir}/environment.yml")
VARIABLES = {"PYTHONPATH": str(ROOT.parent), SOURCE_VARIABLE: source_digest(), "D4S_STATE_DEVICE": STUDY.execution.state_device}
EXPORTS = "export " + " ".join(f"{name}={shlex.quote(value)}" for name, value in VARIABLES.items())
shell.prefix(plain_text(EXPORTS) + "; ")


def inputs_of(*roles):
    """Inputs by role; a role that an artefact does not have is absent. Their times mean nothing, since their paths say what they are."""
    return lambda wildcards: {role: ancient(path) for role, path in PLAN.inputs(wildcards[0], roles).items()}


def inputs_ahead(wildcards):
    return [ancient(path) for path in PLAN.inputs_ahead(wildcards[0])]


def leader_of(wildcards):
    return [ancient(path) for path in PLAN.leader(wildcards[0])]


def shards_of(wildcards):
    return PLAN.shards(wildcards[0])


def by_role(wildcards, input):
    return [f"{role}={input[role]}" for role in PLAN.nodes[wildcards[0]].inputs]


def settings_of(wildcards):
    return PLAN.nodes[wildcards[0]].settings_text


def code_of(wildcards):
    return PLAN.nodes[wildcards[0]].code


def ahead_of(wildcards, output):
    """What this run of Snakemake makes next from the same model; derived from the output, since it makes nothing again."""
    wanted = {str(path) for job in workflow.dag.needrun_jobs() for path in job.output}
    return json.dumps([node.call for node in PLAN.ahead(wildcards[0]) if str(node.marker) in wanted])


def resources_of(wildcards):
    return RESOURCES.of(wildcards[0], is_shard="shard" in wildcards.keys())


def mem_mb_of(wildcards):
    return resources_of(wildcards).mem_mb


def runtime_of(wildcards):
    return resources_of(wildcards).runtime


def gpu_of(wildcards):
    return resources_of(wildcards).gpu


def priority_of(wildcards):
    return RESOURCES.priority(wildcards[0])
