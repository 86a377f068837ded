"""The workflow itself: lint, dry runs of every grid, and what each verb's command line says."""

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


def test_every_rule_has_the_environment_and_a_log() -> None:
    for path in sorted((ROOT / "workflow" / "rules").glob("*.smk")):
        text = path.read_text()
        rules = text.count("output:")
        assert (
            rules == text.count("log:") == text.count("conda:") == text.count("resources:") == text.count("threads:")
            or path.name == "common.smk"
        )


def test_names_of_studies_stay_apart(tmp_path: Path) -> None:
    work = lay_out(tmp_path / "other", TINY | {"study": "other"})
    assert "results/other/report.html" in work.snakemake("-n")
