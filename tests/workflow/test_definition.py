"""The workflow itself: lint, dry runs of every grid, and what each stage's command line says."""

import re
from pathlib import Path

import pytest
import yaml

from d4s.study.stages import STAGES
from tests.workflow.conftest import ODD, ROOT, TINY, Workdir, copy_checkout


@pytest.fixture(scope="module")
def fresh(tmp_path_factory: pytest.TempPathFactory) -> Workdir:
    return copy_checkout(tmp_path_factory.mktemp("fresh") / ODD, yaml.safe_load((ROOT / "params.yaml").read_text()))


def test_lint_is_clean(fresh: Workdir) -> None:
    assert "Congratulations" in fresh.snakemake("--lint")


def test_the_default_study_is_planned_from_nothing(fresh: Workdir) -> None:
    jobs = fresh.jobs()
    assert jobs["pretrain"] == 1 and jobs["edit"] == 28 and jobs["report"] == 1


def test_conda_is_asked_for_in_words_people_can_search(fresh: Workdir) -> None:
    assert "conda" in fresh.snakemake("-n", "--use-conda", fails=True)


def test_every_rule_has_an_environment_a_log_and_resources() -> None:
    text = "\n".join(path.read_text() for path in sorted((ROOT / "workflow" / "rules").glob("*.smk")))
    expected = {"output", "log", "benchmark", "conda", "threads", "resources", "params", "shell"}
    rules = re.split(r"^(?=rule \w+:$)", text, flags=re.MULTILINE)[1:]
    assert {rule.partition(":")[0].removeprefix("rule ") for rule in rules} >= STAGES.keys()
    for rule in rules:
        words = set(re.findall(r"^ +(\w+):", rule, flags=re.MULTILINE))
        assert words >= expected, (rule.partition("\n")[0], words)


def test_rules_are_written_and_listed_by_plain_names(fresh: Workdir) -> None:
    listed = fresh.snakemake("--list-rules").split()
    assert STAGES.keys() <= set(listed) and not [name for name in listed if re.search(r"[0-9a-f]{10}", name)]
    text = "".join(path.read_text() for path in (ROOT / "workflow" / "rules").glob("*.smk"))
    assert not re.search(r"^\s*(for|use rule)\b.*:$", text, re.MULTILINE)


def test_the_profile_is_loaded_by_itself(fresh: Workdir) -> None:
    assert "profiles/default" in fresh.snakemake("-n")


def test_names_of_studies_stay_apart(tmp_path: Path) -> None:
    work = copy_checkout(tmp_path / "other", TINY | {"study": "other"})
    assert "results/other/report.html" in work.snakemake("-n")


SHARDED = {
    "seeds": [1],
    "grid": [{"models": ["mini"], "datasets": ["world_qa"], "editors": ["memit", "d4s"], "lengths": [10, 330]}],
    "execution": {"shards": {"targets": 3, "moments": 2}},
}


def _outputs(dry_run: str) -> list[tuple[str, str]]:
    """Rule and declared output of every job, as a dry run lists them."""
    return re.findall(r"^rule (\w+):\n(?:    input: .*\n)?    output: (.*)$", dry_run, re.MULTILINE)


def _pretend_that_all_is_done(work: Workdir, outputs: list[str]) -> None:
    for name in outputs:
        path = work.path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix:
            path.touch()
        else:
            path.mkdir(exist_ok=True)
    work.snakemake("--touch", "--forceall")


def test_shards_share_blocks_and_layers_and_their_number_reruns_nothing(tmp_path: Path) -> None:
    work = copy_checkout(tmp_path / "sharded", yaml.safe_load((ROOT / "params.yaml").read_text()) | SHARDED)
    jobs = _outputs(work.snakemake("-n"))
    for stage, names in (("targets", ["0-1", "2-3", "4-5-6"]), ("moments", ["0", "1-2"])):
        assert sorted(Path(path).stem for rule, path in jobs if rule == f"{stage}_shard") == names
        assert [Path(path).parent.name for rule, path in jobs if rule == stage] == ["done"]
    _pretend_that_all_is_done(work, [path for rule, path in jobs if not rule.endswith("_shard")])
    for shards in ({"targets": 3, "moments": 2}, {"targets": 1, "moments": 1}, {"targets": 5, "moments": 3}):
        work.change(lambda params, shards=shards: params.update(execution={"shards": shards}))
        assert work.jobs() == {}, shards
    work.change(lambda params: params["grid"][0].update(lengths=[10, 330, 360]))
    longer = work.jobs()
    assert (longer["targets"], longer["targets_shard"], longer.get("moments", 0), longer["edit"]) == (1, 5, 0, 2)
