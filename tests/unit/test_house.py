"""House rules that a linter does not know: sizes, where printing and devices may stand, words that no tracked file may hold."""

import ast
import re
import subprocess
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from statistics import median

import pytest

from tools.lock import ROOT

FILE_LINES = 400
FUNCTION_LINES = 60
TEXT = {".cff", ".css", ".html", ".lock", ".md", ".py", ".smk", ".toml", ".txt", ".yaml", ".yml", ".json", ""}
DEVICES = re.compile(r"""["']cuda|\.cuda\(""")
# Written in two parts, so that this file does not hold them itself.
HOSTS = [
    f"{name}.{domain}"
    for name, domain in (("pypi", "org"), ("pythonhosted", "org"), ("anaconda", "com"), ("anaconda", "org"), ("npmjs", "org"))
]
PLACES = [f"/{folder}/" for folder in ("work", "root", "home", "Users", "opt/wheels", "opt/" + "pypi", "tmp/brief")]
FORBIDDEN = re.compile("|".join([*map(re.escape, HOSTS), *(rf"(?<![\w.~{{}}]){re.escape(place)}\w" for place in PLACES), "file" + "://"]))
# Phrases that the package and its pages do not use, with what to write instead; tools/words.txt has single words for codespell.
PHRASES = {
    r"\bso many\b": "name the number: `at most n`, `this number of`",
    r"(?<![`\"#./-])(?<!family: )\bmend\b": "fix",  # MEND is an editor: in capitals, or as a name in code
    r"\bin any case\b": "always",
    r"\btime and again\b": "repeatedly",
    r"\bbe had\b": "be available",
    r"\blookup token\b": "the subject's last token",
    r"\bbare (?:prompt|key)s?\b": "unprefixed",
    r"\bessence prompts?\b": "KL prompt",
    r"\b(?:is|was|are|were) taught\b": "is trained on",
}
WORDS = ROOT / "tools" / "words.txt"
# Records of decisions are not edited, the changelog names former settings, tests quote former texts.
FREE_OF_WORDS = ("tests/", "benchmarks/", "docs/decisions/0", "tools/words.txt", "CHANGELOG.md", "results/")
LINK = re.compile(r"\]\((?!https?://|#|mailto:)([^)#\s]+)")


@cache
def tracked() -> tuple[Path, ...]:
    """Files under version control that are there."""
    done = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, text=True, capture_output=True, check=False)
    if done.returncode:
        pytest.skip("not a git checkout, so nothing tells which files are tracked")
    return tuple(path for path in (ROOT / name for name in done.stdout.split("\0") if name) if path.is_file())


def sources(*folders: str) -> list[Path]:
    return [path for path in tracked() if path.suffix == ".py" and path.relative_to(ROOT).parts[0] in folders]


def functions(path: Path) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node


def length(node: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    return (node.end_lineno or node.lineno) - node.lineno + 1


def is_command_line(path: Path) -> bool:
    return path.relative_to(ROOT / "src" / "d4s").parts[0] == "cli"


# --- sizes ------------------------------------------------------------------------------------------------------------


def test_files_are_short() -> None:
    lines = {str(path.relative_to(ROOT)): len(path.read_text().splitlines()) for path in sources("src", "tests", "tools", "benchmarks")}
    assert {name: count for name, count in lines.items() if count > FILE_LINES} == {}


def test_functions_are_short() -> None:
    found = {
        f"{path.relative_to(ROOT)}:{node.lineno} {node.name}": length(node)
        for path in sources("src", "tests", "tools")
        for node in functions(path)
    }
    assert {name: count for name, count in found.items() if count > FUNCTION_LINES} == {}


def test_most_functions_take_a_glance() -> None:
    assert median(length(node) for path in sources("src", "tools") for node in functions(path)) <= 12


def test_every_argument_is_annotated() -> None:
    bare = [
        f"{path.relative_to(ROOT)}:{node.lineno} {node.name}({argument.arg})"
        for path in sources("src", "tools")
        for node in functions(path)
        for argument in [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
        if argument.annotation is None and argument.arg not in ("self", "cls")
    ]
    assert bare == []


# --- what may stand where ---------------------------------------------------------------------------------------------


def test_only_the_command_line_prints() -> None:
    calls = [
        f"{path.relative_to(ROOT)}:{node.lineno}"
        for path in sources("src")
        if not is_command_line(path)
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print"
    ]
    assert calls == []


def test_only_the_command_line_names_a_device() -> None:
    named = [
        f"{path.relative_to(ROOT)}:{number}"
        for path in sources("src")
        if not is_command_line(path)
        for number, line in enumerate(path.read_text().splitlines(), start=1)
        if DEVICES.search(line)
    ]
    assert named == []


@pytest.mark.parametrize(
    ("rule", "pattern"),
    [
        ("state lives in values, not in modules", r"^\s*global \w"),
        ("an error is caught by its name", r"^\s*except\s*:"),
        ("annotations are objects that shape checks can read", r"^from __future__ import annotations"),
        ("artefacts are data, never code", r"^\s*(?:import|from) pickle\b|(?<![.\w])torch\.(?:load|save)\("),
        ("what is read cannot run", r"trust_remote_code=True|\byaml\.(?:unsafe_)?load\("),
    ],
)
def test_the_package_never_holds(rule: str, pattern: str) -> None:
    found = [
        f"{path.relative_to(ROOT)}:{number} {line.strip()}"
        for path in sources("src", "tools")
        for number, line in enumerate(path.read_text().splitlines(), start=1)
        if re.search(pattern, line)
    ]
    assert found == [], rule


def test_no_module_is_a_drawer_for_everything() -> None:
    assert [path for path in sources("src", "tests", "tools") if path.stem in ("utils", "helpers", "misc", "common")] == []


# --- words and links --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "is_forbidden"),
    [
        (f"see https://{HOSTS[0]}/project", True),
        (f"data: {PLACES[0]}data", True),
        (f'"{PLACES[2]}somebody/d4s"', True),
        ("a=file" + ":///a.whl", True),
        ("results/work/report.html", False),
        ("https://keepachangelog.com", False),
        ("~/home/x", False),
        ("a workbench / a root / a home", False),
    ],
)
def test_the_rule_for_words_tells_machines_from_prose(line: str, is_forbidden: bool) -> None:
    assert bool(FORBIDDEN.search(line)) == is_forbidden


def test_no_tracked_file_names_a_machine_or_a_registry() -> None:
    found = [
        f"{path.relative_to(ROOT)}:{number} {line.strip()[:100]}"
        for path in tracked()
        if path.suffix in TEXT
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1)
        if FORBIDDEN.search(line)
    ]
    assert found == []


@pytest.mark.parametrize("phrase", PHRASES)
def test_no_line_has_a_phrase_of_the_list(phrase: str) -> None:
    found = [
        f"{path.relative_to(ROOT)}:{number} {line.strip()[:100]}"
        for path in tracked()
        if path.suffix in TEXT and not str(path.relative_to(ROOT)).startswith(FREE_OF_WORDS)
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1)
        if re.search(phrase, line)
    ]
    assert found == [], f"write instead: {PHRASES[phrase]}"


def test_every_word_of_the_list_has_a_replacement() -> None:
    entries = [entry.partition("->") for entry in WORDS.read_text(encoding="utf-8").splitlines()]
    assert all(word and arrow and replacement for word, arrow, replacement in entries)
    assert [word for word, _, _ in entries] == sorted({word for word, _, _ in entries})


def test_modules_of_the_glossary_exist() -> None:
    text = (ROOT / "docs" / "notation.md").read_text(encoding="utf-8")
    modules = re.findall(r"`([\w/]+\.py)`", text.partition("## Glossary")[2].partition("## Scores")[0])
    assert len(modules) > 40
    assert [module for module in modules if not (ROOT / "src" / "d4s" / module).is_file()] == []


def test_links_between_pages_lead_somewhere() -> None:
    missing = [
        f"{path.relative_to(ROOT)}: {target}"
        for path in tracked()
        if path.suffix == ".md"
        for target in LINK.findall(path.read_text(encoding="utf-8"))
        if not (path.parent / target).exists()
    ]
    assert missing == []


def test_no_test_module_is_a_library() -> None:
    """What several tests need stands in a module that holds no tests."""
    for path in sources("tests", "benchmarks"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom):
                assert not re.search(r"^tests\.(\w+\.)*test_", node.module or ""), f"{path.relative_to(ROOT)} imports from {node.module}"
