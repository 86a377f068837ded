"""A hyperparameter file of EasyEdit as a settings file of ours, with what became of every key."""

import difflib
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import reduce
from pathlib import Path
from typing import Any

import yaml

from d4s.apply.easyedit.algorithms import ABSENT, ALGORITHMS, Absent, Algorithm
from d4s.apply.easyedit.key_rules import Found, Outcome, TargetModel, nested
from d4s.apply.hparams_match import KNOWN_SHAPES, shape_from_config
from d4s.artifacts import write_text
from d4s.editors.editor_settings import resolve
from d4s.editors.hparams import HParams, merge_hparams
from d4s.editors.presets import PRESETS
from d4s.editors.settings_file import SUFFIXES, TunedModel, TunedSettings, settings_file_text
from d4s.errors import SettingsError
from d4s.registry import nearest

OUTCOMES: Mapping[Outcome, str] = {
    "translated": "translated",
    "without effect": "without effect here",
    "not representable": "not representable: the edits are not quite those of EasyEdit",
    "unknown": "not a key of this algorithm, so not translated",
}


@dataclass(frozen=True, slots=True)
class KeyReading:
    """A key of a file, and what became of it."""

    key: str
    value: Any
    outcome: Outcome
    note: str


@dataclass(frozen=True, slots=True)
class Translation:
    """A file's algorithm, its settings as a settings file of ours, what became of every key, and what ours does otherwise."""

    name: str
    settings: TunedSettings
    keys: tuple[KeyReading, ...]
    differs: tuple[str, ...]

    def lines(self) -> Iterator[str]:
        """What became of every key, by outcome."""
        width = max(len(_short(key)) for key in self.keys)
        for outcome, title in OUTCOMES.items():
            if found := [key for key in self.keys if key.outcome == outcome]:
                yield f"{title}:"
                yield from (f"  {_short(key):<{width}}  {key.note}" for key in found)
        if self.differs:
            yield "otherwise than in EasyEdit, whatever the file says:"
            yield from (f"  {text}" for text in self.differs)

    def text(self) -> str:
        """The settings file, with these lines as comments at its head."""
        editors = ", ".join(self.settings.editors)
        title = f"Settings of {editors} from EasyEdit's of {self.name} (docs/from_easyedit.md); nothing was measured."
        head = "".join(f"# {line}\n" for line in (title, *self.lines()))
        return settings_file_text(self.settings, head)


def translate(path: Path, model: str | None) -> Translation:
    """EasyEdit's file as settings for a model: a folder, a hub id, a kind of model such as `gpt-j-6b`, or the file's own where None.

    Raises:
        SettingsError: if the algorithm is unknown or none of ours, the model's shape is not known, or keys are missing or have values
            that are none; names everything wrong.
    """
    content = read_hparams(path)
    name, algorithm, problems = _algorithm(content.get("alg_name"))
    target, unknown = _target_model(content.get("model_name") if model is None else model, "model_name:" if model is None else "--model")
    problems += unknown
    if algorithm is None or target is None:
        raise SettingsError(_told(path, problems))
    read = _read(path, content, algorithm, target)
    kind, blocks, width, mlp_width = target.shape
    found = TunedSettings(
        model=TunedModel(source=target.source, model_type=kind, layers=blocks, width=width, mlp_width=mlp_width),
        facts=f"none: translated from {path}",
        sweep=(),
        key_leverage={},
        editors={preset: dict(read.settings) for preset in read.presets},
    )
    if refused := read.problems or [problem for preset in read.presets for problem in _refused(preset, found)]:
        raise SettingsError(_told(path, refused))
    return Translation(name, found, read.keys, read.differs)


def write_translation(translation: Translation, out: Path) -> None:
    """Write the settings file.

    Raises:
        SettingsError: if no settings file may have this name, or a file that says something else is there.
    """
    if out.suffix not in SUFFIXES:
        raise SettingsError(f"--out {out}: a settings file's name ends in {' or '.join(SUFFIXES)}")
    if out.exists() and out.read_text(encoding="utf-8") != translation.text():
        raise SettingsError(f"--out {out} is there already and says something else; delete it, or choose another")
    write_text(out, translation.text())


def read_hparams(path: Path) -> dict[str, Any]:
    """A file's keys and values; text that spells a number, such as 5e-1, is that number, as EasyEdit reads it.

    Raises:
        SettingsError: if it is no file of keys and values.
    """
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise SettingsError(f"{path} cannot be read as a hyperparameter file: {' '.join(str(error).split())}") from None
    if not isinstance(content, dict):
        raise SettingsError(f"{path} holds {type(content).__name__}, expected keys and values, alg_name among them")
    return {str(key): _number(value) for key, value in content.items()}


def _number(value: Any) -> Any:
    try:
        return float(value) if isinstance(value, str) else value
    except ValueError:
        return value


def _algorithm(name: Any) -> tuple[str, Algorithm | None, list[str]]:
    """The algorithm of a name, in whatever case it is written; none and the reason where we do not have it."""
    if not isinstance(name, str):
        return "", None, ["alg_name: is missing, so no algorithm is known"]
    rows: Mapping[str, Algorithm | Absent] = {**ALGORITHMS, **ABSENT}
    folded = {known.casefold(): known for known in rows}
    known = folded.get(name.casefold())
    row = rows[known] if known else None
    if row is None:
        close = difflib.get_close_matches(name.casefold(), folded, n=1, cutoff=0.5)
        hint = f"did you mean {folded[close[0]]!r}?" if close else f"of its algorithms we have {', '.join(ALGORITHMS)}"
        return name, None, [f"alg_name: EasyEdit has no algorithm {name!r}; {hint} (among our presets: {nearest(name.lower(), PRESETS)})"]
    if isinstance(row, Absent):
        near = f"; what comes nearest is `{row.nearest}`" if row.nearest else ""
        return name, None, [f"alg_name: files of {known} are not translated: {row.reason}{near} (docs/from_easyedit.md)"]
    return known or name, row, []


def _target_model(source: Any, named: str) -> tuple[TargetModel | None, list[str]]:
    """The model that settings are for; none and the reason where its shape is not known."""
    kinds = {column: shape for shape, column in KNOWN_SHAPES.items()}
    shape = None if source is None else kinds.get(str(source)) or shape_from_config(str(source), "main")
    if shape is not None:
        return TargetModel(str(source), shape), []
    remedy = f"pass --model with a folder, a hub id, or a kind of model: {', '.join(kinds)}"
    return None, [f"{named} {'is missing' if source is None else f'{source} is no model on this machine'}; {remedy}"]


@dataclass(frozen=True, slots=True)
class Reading:
    """What is read of a file: every key, the settings that they give, the presets that take those, what is otherwise, what is wrong."""

    keys: tuple[KeyReading, ...] = ()
    settings: HParams = field(default_factory=dict)
    presets: tuple[str, ...] = ()
    differs: tuple[str, ...] = ()
    problems: tuple[str, ...] = ()


def _read(path: Path, content: Mapping[str, Any], algorithm: Algorithm, model: TargetModel) -> Reading:
    """What a file says, after that of the algorithm that it changes, if it does."""
    base = _read_base(path, content.get("base_method"), algorithm.around, model) if algorithm.around else Reading()
    keys, problems, given = [*base.keys], [*base.problems, *_missing(content, algorithm)], []
    for key, value in content.items():
        rule = algorithm.rules.get(key)
        try:
            found = Found("unknown", _hint(key, algorithm)) if rule is None else rule.read(value, model)
        except ValueError as error:
            problems.append(f"{key}: {error}")
            continue
        keys.append(KeyReading(key, value, found.outcome, found.note))
        given.append(found)
    return Reading(
        tuple(keys),
        merge_hparams(base.settings, algorithm.fixed, *(found.settings for found in given), _products(given)),
        tuple(found.preset for found in given if found.preset) or algorithm.presets,
        (*base.differs, *algorithm.differs),
        tuple(problems),
    )


def _read_base(path: Path, base: Any, around: Collection[str], model: TargetModel) -> Reading:
    """What the file of the algorithm says that this one changes: that of the same name in the other's folder, as in EasyEdit."""
    if base not in around:
        return Reading(problems=(f"base_method: {base!r} is not changed by it here; {' or '.join(around)} can be",))
    other = path.resolve().parent.parent / base / path.name
    if not other.is_file():
        return Reading(problems=(f"base_method: the file of {base} is read from {other}, and is not there",))
    found = _read(other, read_hparams(other), ALGORITHMS[base], model)
    return replace(
        found,
        keys=tuple(replace(key, key=f"{base}/{key.key}") for key in found.keys),
        problems=tuple(f"{other}: {problem}" for problem in found.problems),
    )


def _hint(key: str, algorithm: Algorithm) -> str:
    close = difflib.get_close_matches(key, algorithm.rules, n=1, cutoff=0.7)
    return f"did you mean {close[0]!r}?" if close else "no key is called nearly so"


def _missing(content: Mapping[str, Any], algorithm: Algorithm) -> Iterator[str]:
    """Keys without which settings would be ours and not the file's."""
    for key, rule in algorithm.rules.items():
        if rule.gives and not rule.optional and key not in content:
            yield f"{key}: is missing, and no default is taken in its place"
    for keys in algorithm.one_of:
        if not any(key in content for key in keys):
            yield f"{' or '.join(keys)}: is missing, and no default is taken in its place"


def _products(found: Sequence[Found]) -> HParams:
    """Settings that several keys are factors of."""
    products: dict[str, float] = {}
    for one in found:
        for name, factor in one.factors.items():
            products[name] = products.get(name, 1.0) * factor
    return reduce(merge_hparams, (nested(name, value) for name, value in products.items()), {})


def _refused(preset: str, settings: TunedSettings) -> Iterator[str]:
    """What our own check finds wrong with the settings of a preset."""
    try:
        resolve(preset, {}, settings)
    except SettingsError as error:
        yield str(error)


def _told(path: Path, problems: Sequence[str]) -> str:
    lines = "\n".join(f"  {problem}" for problem in problems)
    return f"{path} has {len(problems)} problem(s):\n{lines}"


def _short(key: KeyReading) -> str:
    """A key and its value, cut where it is long."""
    text = f"{key.key}: {yaml.safe_dump(key.value, default_flow_style=True, width=10_000).removesuffix('...' + chr(10)).strip()}"
    return text if len(text) <= 60 else f"{text[:59]}…"
