"""The code that runs is the one that the workflow was read with, or the job ends before it makes anything."""

import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner

from d4s.cli import app
from d4s.errors import SettingsError
from d4s.study import code_digests
from d4s.study.code_digests import SOURCE_VARIABLE, SUFFIXES, refuse_other_source, source_digest


@pytest.fixture
def copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The package somewhere else, taken for the one that runs."""
    root = tmp_path / "site-packages" / "d4s"
    shutil.copytree(code_digests.ROOT, root, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(code_digests, "ROOT", root)
    monkeypatch.setattr(code_digests, "source_digest", source_digest.__wrapped__)
    return root


def test_an_equal_copy_will_do_and_caches_and_editors_leave_no_mark(copied: Path) -> None:
    (copied / "__pycache__").mkdir()
    (copied / "__pycache__" / "errors.cpython-311.pyc").touch()
    (copied / ".errors.py.swp").touch()
    (copied / ".#errors.py").symlink_to("nobody@nowhere")
    refuse_other_source(source_digest())


@pytest.mark.parametrize("name", ["errors.py", "report/page.css"])
def test_another_copy_is_refused_and_named(copied: Path, name: str) -> None:
    with (copied / name).open("a") as stream:
        stream.write("\n")
    with pytest.raises(SettingsError, match=rf"this job runs the package in {copied}.*uninstall it"):
        refuse_other_source(source_digest())
    (copied / name).unlink()
    with pytest.raises(SettingsError, match="which is not, or no longer, the code"):
        refuse_other_source(source_digest())


def test_everything_in_the_package_counts() -> None:
    assert {path.suffix for path in code_digests.ROOT.rglob("*") if path.is_file() and "__pycache__" not in path.parts} <= SUFFIXES


@pytest.mark.parametrize("expected", ["0" * 16, source_digest()])
def test_a_job_asks_before_it_makes_anything(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, expected: str) -> None:
    monkeypatch.setenv(SOURCE_VARIABLE, expected)
    monkeypatch.setattr("d4s.cli.stage_commands.limit_threads", lambda: None)
    found = CliRunner().invoke(app, ["world", str(tmp_path / "world" / "manifest.json"), "--settings", '{"people": 12, "events": 6}'])
    is_right = expected == source_digest()
    assert (found.exit_code, (tmp_path / "world").exists()) == ((0, True) if is_right else (2, False)), found.output
    assert is_right or "this job runs the package in" in found.output
