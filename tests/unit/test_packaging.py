"""The environment and the repository's commands: lock, environment.yml, dependencies, Makefile, CI entry, hooks, citation."""

import ast
import importlib.metadata
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import Version
from rattler import MatchSpec
from rattler.exceptions import InvalidMatchSpecError

from d4s import __version__
from tools.environment import ENVIRONMENT, PYTHON, render
from tools.lock import HEADER, LOCK, ROOT, clean, pins

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = PROJECT["optional-dependencies"]
DECLARED = [Requirement(text) for text in [*PROJECT["dependencies"], *(text for extra in EXTRAS.values() for text in extra)]]

# Needed without being imported: command lines, plugins, backends, and stubs.
NOT_IMPORTED = {
    "accelerate": "Transformers spreads a model over devices with it",
    "basedpyright": "command",
    "beartype": "checks shapes in tests, by a pytest option",
    "codespell": "command",
    "dvc": "command",
    "import-linter": "command",
    "mkdocs-material": "theme of the documentation site",
    "pandas-stubs": "stubs",
    "pytest-benchmark": "plugin",
    "pytest-xdist": "plugin",
    "ruff": "command",
    "setuptools": "build backend",
    "snakefmt": "command",
    "snakemake-executor-plugin-slurm": "plugin",
    "types-pyyaml": "stubs",
}


def locked() -> dict[str, str]:
    return pins(LOCK.read_text())


# --- lock and environment.yml -----------------------------------------------------------------------------------------


def test_the_lock_holds_exact_versions_and_nothing_else() -> None:
    lines = LOCK.read_text().removeprefix(HEADER).splitlines()
    assert len(lines) == len(locked()) > 100
    for line in lines:
        assert re.fullmatch(r"[a-z0-9._-]+==[0-9][a-z0-9.]*( +# via .+)?", line), line


def test_every_declared_requirement_is_met_by_the_lock() -> None:
    versions = {canonicalize_name(name): version for name, version in locked().items()}
    for requirement in DECLARED:
        version = versions.get(canonicalize_name(requirement.name))
        assert version is not None, f"{requirement} is not in {LOCK.name}: run `make lock`"
        assert requirement.specifier.contains(version), f"{requirement} is locked at {version}: run `make lock`"


def test_the_lock_installs_on_the_oldest_python_that_is_promised() -> None:
    """Not on the resolver's own patch release alone: Debian 12 has Python 3.11.2, and pymdown-extensions 13 wants 3.11.5."""
    oldest = PROJECT["requires-python"].removeprefix(">=") + ".0"
    wanted = {name: importlib.metadata.metadata(name).get("Requires-Python") for name in locked()}
    assert {name: text for name, text in wanted.items() if text and not SpecifierSet(text).contains(oldest)} == {}


def test_the_lock_pins_the_lines_that_are_supported_together() -> None:
    lines = {"transformers": "5.", "pandas": "3.", "pyarrow": "26.", "openai": "3.", "snakemake": "9.", "dvc": "3.", "datasets": "5."}
    versions = locked()
    assert {name: versions[name] for name in lines if not versions[name].startswith(lines[name])} == {}
    assert versions["torch"] == "2.13.0" and versions["lm-eval"] == "0.4.13"
    assert "pip-tools" not in versions


def test_cleaning_drops_local_parts_of_versions_and_sorts() -> None:
    resolved = "# header\ntorch==2.13.0+cpu      # via d4s (pyproject.toml)\n\nabsl-py==2.5.1\n"
    assert clean(resolved) == HEADER + "absl-py==2.5.1\ntorch==2.13.0      # via d4s (pyproject.toml)\n"


@pytest.mark.parametrize("line", ["--find-links /wheels", "--index-url https://example.org/simple", "a @ ./a.whl", "a>=1"])
def test_cleaning_refuses_whatever_is_no_pin(line: str) -> None:
    with pytest.raises(ValueError, match="expected NAME==VERSION"):
        clean(f"absl-py==2.5.1\n{line}\n")


def test_environment_yml_is_written_from_the_lock() -> None:
    assert ENVIRONMENT.read_text() == render(locked()), "run `make pages`"


def test_environment_yml_is_understood_by_conda() -> None:
    content = yaml.safe_load(ENVIRONMENT.read_text())
    assert content["name"] == "d4s" and content["channels"][0] == "conda-forge"
    *specs, pip = content["dependencies"]
    names = [MatchSpec(spec, strict=True).name for spec in specs]
    assert [name.normalized for name in names if name is not None] == ["python", "pip"]
    assert pip == {"pip": [f"{name}=={version}" for name, version in locked().items()]}


def test_malformed_match_specs_would_be_seen() -> None:
    with pytest.raises(InvalidMatchSpecError):
        MatchSpec("python=3.11=[", strict=True)


def test_the_python_of_environment_yml_is_one_that_the_package_supports() -> None:
    assert Requirement(f"python{PROJECT['requires-python']}").specifier.contains(PYTHON)


# --- dependencies -----------------------------------------------------------------------------------------------------


def imported(*folders: str) -> Iterator[str]:
    """Top-level names of all modules imported anywhere in Python files and workflow rules of folders."""
    for folder in folders:
        for path in sorted((ROOT / folder).rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.Import):
                    yield from (alias.name.split(".")[0] for alias in node.names)
                elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                    yield node.module.split(".")[0]
        for path in sorted((ROOT / folder).rglob("*.smk")):
            yield from re.findall(r"^(?:from|import) (\w+)", path.read_text(), flags=re.MULTILINE)


@cache
def providers() -> Mapping[str, list[str]]:
    """Names of the installed distributions by the modules that they provide."""
    return importlib.metadata.packages_distributions()


def distributions(modules: Iterator[str]) -> set[str]:
    """Canonical names of the distributions that provide modules."""
    return {canonicalize_name(name) for module in set(modules) for name in providers().get(module, ())}


def test_everything_imported_by_the_package_is_a_declared_dependency() -> None:
    declared = {canonicalize_name(Requirement(text).name) for text in PROJECT["dependencies"]}
    missing = distributions(imported("src", "workflow")) - {"d4s"} - declared
    assert missing == set(), "add them to pyproject.toml, then `make lock` and `make pages`"


def test_everything_imported_by_tests_and_tools_is_declared() -> None:
    declared = {canonicalize_name(requirement.name) for requirement in DECLARED}
    missing = distributions(imported("tests", "tools")) - {"d4s"} - declared
    assert missing == set(), "add them to an extra in pyproject.toml, then `make lock` and `make pages`"


def test_every_declared_dependency_is_used() -> None:
    used = distributions(imported("src", "workflow", "tests", "tools", "benchmarks"))
    idle = {canonicalize_name(requirement.name) for requirement in DECLARED} - used
    assert idle <= set(NOT_IMPORTED), f"declared, but neither imported nor explained here: {sorted(idle - set(NOT_IMPORTED))}"
    assert set(NOT_IMPORTED) <= idle, f"explained here without need: {sorted(set(NOT_IMPORTED) - idle)}"


# --- Makefile, CI, hooks ----------------------------------------------------------------------------------------------


def make(*arguments: str) -> subprocess.CompletedProcess[str]:
    clean_environment = {key: value for key, value in os.environ.items() if not key.startswith("MAKE")}
    return subprocess.run(["make", *arguments], cwd=ROOT, env=clean_environment, text=True, capture_output=True, check=False)


def targets() -> dict[str, str]:
    """Prerequisites of the Makefile's phony targets."""
    text = (ROOT / "Makefile").read_text()
    names = re.findall(r"^\.PHONY: (\S+)$", text, flags=re.MULTILINE)
    return {name: re.findall(rf"^{name}:(.*?)(?:##|$)", text, flags=re.MULTILINE)[0].strip() for name in names}


def test_make_alone_prints_every_target_with_its_help() -> None:
    done = make()
    assert done.returncode == 0
    listed = re.findall(r"^  make (\S+) +\S", done.stdout, flags=re.MULTILINE)
    assert sorted(listed) == sorted(targets())


@pytest.mark.parametrize("target", ["reproduce", "check", "test", "sync", "record", "prune", "lock", "clean"])
def test_targets_expand(target: str) -> None:
    done = make("--dry-run", target)
    assert done.returncode == 0, done.stderr


def test_another_study_reaches_snakemake_and_the_report() -> None:
    done = make("--dry-run", "reproduce", "CONFIG=params.yaml").stdout
    assert "tools.unlock --configfile 'params.yaml'" in done and "d4s run --study 'params.yaml' -- --cores all" in done
    assert "--configfile" not in make("--dry-run", "reproduce").stdout
    assert "-- --profile workflow/profiles/slurm" in make("--dry-run", "reproduce", "PROFILE=slurm").stdout


def test_a_study_of_any_name_is_one_word_to_the_shell(tmp_path: Path) -> None:
    study = tmp_path / """it's "mine" [1] $HOME.yaml"""
    study.write_text("study: never_run\n")
    done = make("report", f"CONFIG={str(study).replace('$', '$$')}")
    assert "results/never_run/report.html is not there yet" in done.stderr


@pytest.mark.parametrize(
    ("name", "told"), [("a:b", ":"), ('a "b', '"'), ("a$b", "$"), ("a`b", "`"), ("a\\b", "\\"), ("""sp ace's [1] {x} ä#%""", "")]
)
def test_make_says_where_it_cannot_live(tmp_path: Path, name: str, told: str) -> None:
    (tmp_path / name).mkdir()
    (tmp_path / name / "Makefile").write_text((ROOT / "Makefile").read_text())
    done = subprocess.run(["make", "help"], cwd=tmp_path / name, text=True, capture_output=True, check=False)
    assert done.returncode == (2 if told else 0), done.stderr
    assert not told or f"the path of this checkout holds {told} and no environment can be made below it" in done.stderr


def test_without_a_python_that_is_new_enough_make_says_so(tmp_path: Path) -> None:
    done = make("setup", "PYTHON=false", f"VENV={tmp_path / 'environment'}")
    assert done.returncode != 0 and "error: no Python 3.11 or later" in done.stderr
    assert not (tmp_path / "environment").exists()


def test_a_missing_report_is_named_with_what_makes_it(tmp_path: Path) -> None:
    study = tmp_path / "study.yaml"
    study.write_text('study: "never_run"   # a name that no study has\n')
    done = make("report", f"CONFIG={study}")
    assert done.returncode != 0 and "results/never_run/report.html is not there yet: make reproduce" in done.stderr


def test_ci_runs_exactly_the_checks_and_the_tests() -> None:
    script = ROOT / ".ci" / "run"
    assert os.access(script, os.X_OK)
    assert subprocess.run(["bash", "-n", script], check=False).returncode == 0
    commands = re.findall(r"^make .*$", script.read_text(), flags=re.MULTILINE)
    assert commands == ["make check", "make test"]


def test_hooks_run_parts_of_the_checks() -> None:
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"][0]["hooks"]
    assert sorted(hook["entry"].removeprefix("make ") for hook in hooks) == sorted(targets()["check"].split())
    assert {hook["language"] for hook in hooks} == {"system"}


# --- licence, citation, version ---------------------------------------------------------------------------------------


def test_licence_version_and_citation_agree() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["version"] == __version__ and str(Version(__version__)) == __version__
    assert citation["license"] == PROJECT["license"] == "Apache-2.0"
    assert "Apache License\n                           Version 2.0" in (ROOT / "LICENSE").read_text()
    assert f"## [{__version__}]" in (ROOT / "CHANGELOG.md").read_text()
    assert {"cff-version", "message", "title", "authors"} <= set(citation)


def test_the_command_line_is_installed_with_the_package() -> None:
    done = subprocess.run([Path(sys.executable).with_name("d4s"), "version"], text=True, capture_output=True, check=True)
    assert done.stdout.strip() == __version__
