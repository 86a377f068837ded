"""The workflow itself: lint, dry runs of every grid, and what each verb's command line says."""

import re
from collections import Counter
from pathlib import Path

import pytest
import yaml

from tests.workflow.conftest import ROOT, TINY, Workdir, lay_out


@pytest.fixture(scope="module")
def fresh(tmp_path_factory: pytest.TempPathFactory) -> Workdir:
    return lay_out(tmp_path_factory.mktemp("fresh") / "work", yaml.safe_load((ROOT / "params.yaml").read_text()))


def test_lint_is_clean(fresh: Workdir) -> None:
    assert "Congratulations" in fresh.snakemake("--lint")


def test_the_default_study_is_planned_from_nothing(fresh: Workdir) -> None:
    jobs = fresh.jobs()
    assert jobs["pretrain"] == 1 and jobs["edit"] == jobs["measure"] and jobs["report"] == 1


def test_conda_is_asked_for_in_words_people_can_search(fresh: Workdir) -> None:
    assert "conda" in fresh.snakemake("-n", "--use-conda", fails=True)


def test_every_rule_has_an_environment_a_log_and_resources() -> None:
    for path in sorted((ROOT / "workflow" / "rules").glob("*.smk")):
        words = Counter(re.findall(r"^\s+(output|log|benchmark|conda|threads|resources):", path.read_text(), flags=re.MULTILINE))
        assert len(set(words.values())) <= 1, (path.name, words)


def test_the_profile_is_loaded_by_itself(fresh: Workdir) -> None:
    assert "profiles/default" in fresh.snakemake("-n")


def test_names_of_studies_stay_apart(tmp_path: Path) -> None:
    work = lay_out(tmp_path / "other", TINY | {"study": "other"})
    assert "results/other/report.html" in work.snakemake("-n")
