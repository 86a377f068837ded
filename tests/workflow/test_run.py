"""`d4s run` with the real Snakemake on the finished tiny study."""

import sys

from tests.workflow.conftest import Workdir


def test_a_lost_report_is_made_again_and_a_finished_study_has_nothing_to_do(copy: Workdir) -> None:
    run = (sys.executable, "-m", "d4s", "run", "--", "--cores", "1")
    report = copy.path / "results" / "tiny" / "report.html"
    report.unlink()
    made = copy.run(*run)
    assert report.is_file() and f"report: {report} (took " in made and "everything is there" not in made
    again = copy.run(*run)
    assert "everything is there; Snakemake looks whether anything is out of date" in again and "nothing was to be done" in again
    assert [*(copy.path / "results" / "logs" / "tiny" / "progress").iterdir()] == []


def test_a_failing_job_is_told_with_its_own_words(copy: Workdir) -> None:
    manifest = next((copy.path / "results" / "store" / "models").glob("*/manifest.json"))
    (manifest.parent / "model.safetensors").write_bytes(b"torn")
    copy.change(lambda params: params["grid"][1]["lengths"].append(4))
    found = copy.run(sys.executable, "-m", "d4s", "run", "--", "--cores", "1", fails=True)
    assert "truncated or altered" in found and "results/logs/edit/" in found and "everything that Snakemake said: results/logs/" in found
    assert "report:" not in found
