"""Code digests: what of the package's code can change a stage's result.

A digest covers the syntax trees, docstrings stripped, of a module and of everything it statically imports within the
package. A comment changes no syntax tree, so it reruns nothing. Settings are resolved before they are hashed and carry
their values with them: of modules that hold settings or names the digest covers what they do, functions, methods and
constants, and not what they list, fields and tables, nor what people read or plans count. So a new preset, reader or setting
touches nothing old, and a property of settings that an editor asks for is covered like the editor itself. The parts of editors
are imported by listing their folder, so a run's digest covers those that its editor is composed of and no others.
"""

import ast
import hashlib
import importlib.util
from functools import cache
from pathlib import Path

from d4s.errors import SettingsError

PACKAGE = "d4s"
SOURCE_VARIABLE = "D4S_SOURCE"
"""Environment variable in which the workflow tells its jobs the digest of the package that it was read with."""
ROOT = Path(__file__).resolve().parents[1]
EXCLUDED_MODULES = frozenset(
    f"{PACKAGE}.{name}"
    for name in (
        *("errors", "log"),
        *(
            f"editors.{table}"
            for table in (
                *("hparams", "preset", "presets", "presets_gradient", "presets_memory", "presets_saul", "presets_side", "presets_targets"),
                "settings_file",
            )
        ),
    )
)
"""Tables whose rows are resolved before settings are hashed, and words for the person who runs a job."""
DECLARATIVE_MODULES = frozenset(
    f"{PACKAGE}.{name}"
    for name in (
        "config",
        "schemas",
        "writer_settings",
        "facts.readers",
        "facts.event_readers",
        "editors.editor_settings",
        "editors.family_settings",
        "editors.fine_tune_settings",
        "editors.gradient_settings",
        "editors.least_squares_settings",
        "editors.side_settings",
        "editors.memory_settings",
        "editors.families",
        "runs.run_settings",
    )
)
"""Modules that hold settings or names: covered by what they do. Those of `PARTS` are too."""
PARTS = f"{PACKAGE}.editors.parts."
DESCRIPTIVE = frozenset(
    {
        *("label", "formula", "choice", "choices", "all_choices", "conflicts"),
        *("bytes", "held_bytes", "view_bytes", "ledger_bytes", "_squares_at_work", "solver_operations", "edit_passes", "gradient_tokens"),
        *("requests_per_pass", "replay_passes", "step_targets", "null_space_layers", "is_measured", "raises_target"),
        *("is_refitted", "is_deferred", "is_beside_model", "at_once", "_matrices", "_updates", "_row_tokens", "_kept"),
    }
)
"""Members of settings that say something to people, refuse combinations or count for plans, and change no result."""
SUFFIXES = frozenset({".py", ".yaml", ".html", ".css", ".js", ".txt"})
"""What the package consists of, as `package-data` in `pyproject.toml` says too."""
DATA_FILES = {
    f"{PACKAGE}.metrics.lm_eval_bridge": ("metrics/tasks",),
    f"{PACKAGE}.report.page": ("report/page.html", "report/page.css"),
}


@cache
def code_digest(*modules: str) -> str:
    """Digest of modules and everything that they import within the package."""
    found: set[str] = set()
    waiting = list(modules)
    while waiting:
        module = waiting.pop()
        if module in found or module in EXCLUDED_MODULES:
            continue
        found.add(module)
        waiting.extend(_imports(module))
    text = "\n".join(f"{module} {_fingerprint(module)}" for module in sorted(found))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


@cache
def source_digest() -> str:
    """Digest of the package's files as they are, comments included: cheap enough for every job to ask which code it runs."""
    files = (path for path in sorted(ROOT.rglob("*")) if path.suffix in SUFFIXES and path.is_file())
    lines = (f"{path.relative_to(ROOT).as_posix()} {hashlib.sha256(path.read_bytes()).hexdigest()}" for path in files)
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16]


def refuse_other_source(expected: str) -> None:
    """Refuse to be another copy of the package than the workflow was read with, or one that was changed since.

    Raises:
        SettingsError: saying which copy this is.
    """
    if source_digest() != expected:
        raise SettingsError(
            f"this job runs the package in {ROOT}, which is not, or no longer, the code that its workflow was read with: if it was changed "
            "meanwhile, run the same command again; if it is an installed copy, uninstall it or start the run in the checkout's environment"
        )


def _file_of(module: str) -> Path | None:
    """The file of a module of the package, or of a part that is defined outside of it."""
    if not module.startswith(f"{PACKAGE}."):
        found = importlib.util.find_spec(module)
        return None if found is None or found.origin is None else Path(found.origin)
    parts = module.split(".")[1:]
    for path in (ROOT.joinpath(*parts).with_suffix(".py"), ROOT.joinpath(*parts, "__init__.py")):
        if parts and path.is_file():
            return path
    return None


@cache
def _tree(module: str) -> ast.Module:
    path = _file_of(module)
    if path is None:
        raise ModuleNotFoundError(f"no module {module}")
    return ast.parse(path.read_text(encoding="utf-8"))


@cache
def _fingerprint(module: str) -> str:
    tree = ast.parse(ast.unparse(_tree(module)))
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) and ast.get_docstring(node) is not None:
            node.body[0] = ast.Pass()
    text = ast.dump(_behaviour(tree) if module in DECLARATIVE_MODULES or module.startswith(PARTS) else tree)
    for path in sorted(path for name in DATA_FILES.get(module, ()) for path in (ROOT / name, *(ROOT / name).rglob("*"))):
        if path.is_file() and path.suffix != ".pyc":
            text += f"\n{path.name} {hashlib.sha256(path.read_bytes()).hexdigest()}"
    return hashlib.sha256(text.encode()).hexdigest()


def _behaviour(tree: ast.Module) -> ast.Module:
    """Functions, methods and constants of a module, without its fields, tables and names of types."""
    kept: list[ast.stmt] = [node for node in tree.body if isinstance(node, ast.FunctionDef) or _is_number(node)]
    for node in tree.body:
        if isinstance(node, ast.ClassDef) and (members := [one for one in node.body if _acts(one)]):
            kept.append(ast.ClassDef(node.name, node.bases, node.keywords, members, node.decorator_list))
    return ast.Module(kept, [])


def _is_number(node: ast.stmt) -> bool:
    """Whether a statement names a number."""
    return isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, int | float)


def _acts(member: ast.stmt) -> bool:
    """Whether a member of a class can change a result: a method, or a class variable, that is no description."""
    if isinstance(member, ast.FunctionDef):
        return member.name not in DESCRIPTIVE
    return (
        isinstance(member, ast.AnnAssign)
        and isinstance(member.target, ast.Name)
        and member.target.id not in DESCRIPTIVE
        and ast.unparse(member.annotation).startswith("ClassVar")
    )


@cache
def _imports(module: str) -> tuple[str, ...]:
    """Modules of the package that a module imports anywhere outside `if TYPE_CHECKING`."""
    names: set[str] = set()
    waiting: list[ast.AST] = [_tree(module)]
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
            waiting.extend(node.orelse)
            continue
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.update([node.module, *(f"{node.module}.{alias.name}" for alias in node.names)])
        waiting.extend(ast.iter_child_nodes(node))
    return tuple(sorted(name for name in names if name.startswith(f"{PACKAGE}.") and _is_module(name)))


def _is_module(name: str) -> bool:
    path = _file_of(name)
    return path is not None and path.name != "__init__.py"
