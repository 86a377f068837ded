"""Raw records from JSON lines: every line is read, and every defect becomes a reject with file, line and field.

Lines end at the newline character only (a record may hold U+2028 and the like). A record is first held against the
pydantic model of its data set, then against that data set's own rules; both speak through `Reject`s, never exceptions.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Generic, TypeVar

from pydantic import BaseModel, ConfigDict, StringConstraints, ValidationError

from d4s.errors import D4SError, Problem, RecordError, SettingsError
from d4s.facts.collect import Reading, Reject, Source
from d4s.facts.record import Fact

Text = Annotated[str, StringConstraints(min_length=1, strip_whitespace=True)]
SHOWN = 80


class Raw(BaseModel):
    """Parent of the raw records: types as they stand in the file, surplus keys ignored, text stripped and not empty."""

    model_config = ConfigDict(frozen=True, strict=True, extra="ignore")


R = TypeVar("R", bound=Raw)


@dataclass(frozen=True, slots=True)
class Flaw:
    """What a data set's own rule finds wrong in a record: the field, what came and what was expected."""

    field: str
    found: str
    expected: str


@dataclass(frozen=True, slots=True)
class Line(Generic[R]):
    """A sound record with the place it came from."""

    file: str
    number: int
    text: str
    raw: R

    def reject(self, flaw: Flaw) -> Reject:
        """This record, set aside for a flaw."""
        return Reject(Problem(self.file, self.number, flaw.field, flaw.found, flaw.expected), self.text)


@dataclass(frozen=True, slots=True)
class Lines(Generic[R]):
    """The lines of a file: sound ones, rejects, and how many there were (blank ones not counted)."""

    sound: list[Line[R]]
    rejects: list[Reject]
    seen: int


def no_flaws(raw: Raw) -> Iterator[Flaw]:
    """The rules of a data set that has none beyond its model."""
    yield from ()


def read_lines(
    path: Path, model: type[R], rules: Callable[[R], Iterable[Flaw]] = no_flaws, key: Callable[[R], object] | None = None
) -> Lines[R]:
    """All lines of a file held against a model and rules; `key` gives what must be unique, None where a record has no id.

    Raises:
        D4SError: if the file cannot be opened or holds no line.
    """
    sound: list[Line[R]] = []
    rejects: list[Reject] = []
    first: dict[object, int] = {}
    seen = 0
    for number, content in _numbered(path):
        seen += 1
        text = content.decode("utf-8", errors="replace")
        raw, flaws = parsed(content, model)
        if raw is not None:
            flaws = list(rules(raw))
            own = key(raw) if key else None
            if own is not None and first.setdefault(own, number) != number:
                flaws.append(Flaw("id", repr(own), f"an id of its own, line {first[own]} has it already"))
        if raw is not None and not flaws:
            sound.append(Line(path.name, number, text, raw))
        rejects.extend(Reject(Problem(path.name, number, flaw.field, flaw.found, flaw.expected), text) for flaw in flaws)
    if not seen:
        raise D4SError(f"{path} holds no records: expected one JSON object per line")
    return Lines(sound, rejects, seen)


def sound_lines(
    path: Path, model: type[R], rules: Callable[[R], Iterable[Flaw]] = no_flaws, key: Callable[[R], object] | None = None
) -> list[Line[R]]:
    """The lines of a file that must hold no defect.

    Raises:
        RecordError: naming every defect.
    """
    lines = read_lines(path, model, rules, key)
    if lines.rejects:
        raise RecordError([reject.problem for reject in lines.rejects])
    return lines.sound


def reading(source: Source, lines: Lines[R], taken: Sequence[Sequence[Fact]], left_out: Sequence[Reject] = ()) -> Reading:
    """The reading of a file whose sound records gave facts (`taken`: one entry per record), cut at the source's limit."""
    kept = taken[: source.limit]
    facts = [fact for facts in kept for fact in facts]
    return Reading(facts, lines.seen, len(kept), len(taken) - len(kept), lines.rejects, left_out)


def refuse_styles(source: Source) -> None:
    """Refuse a style where the data set has only one reading.

    Raises:
        SettingsError: if a style is given.
    """
    choose_style(source, ("",))


def choose_style(source: Source, styles: Sequence[str]) -> str:
    """The reading that a source asks for; the first of `styles` when it names none.

    Raises:
        SettingsError: if there is no such reading.
    """
    if source.style and source.style not in styles:
        readings = f"it has {', '.join(styles)}" if any(styles) else "it has only one: leave `style` out"
        raise SettingsError(f"{source.path.name}: unknown style {source.style!r}; {readings}")
    return source.style or styles[0]


def shown(value: object) -> str:
    """A value as it is shown in a problem: its repr, shortened."""
    text = repr(value)
    return text if len(text) <= SHOWN else f"{text[: SHOWN - 1]}…"


def template_flaws(field: str, template: str) -> Iterator[Flaw]:
    """Whether a template has its one `{}` and no other brace."""
    if template.count("{}") != 1:
        yield Flaw(field, shown(template), "exactly one {} for the subject")
    elif set(template.replace("{}", "")) & {"{", "}"}:
        yield Flaw(field, shown(template), "no braces but the one {} for the subject")


def subject_flaws(field: str, text: str, subject: str) -> Iterator[Flaw]:
    """Whether a text holds its subject exactly once, so that the place to fill in is certain, and no brace."""
    if text.count(subject) != 1:
        yield Flaw(field, shown(text), f"the subject {shown(subject)} exactly once, not {text.count(subject)} times")
    if set(text) & {"{", "}"}:
        yield Flaw(field, shown(text), "text without braces, which mark the place of the subject")


def _numbered(path: Path) -> Iterator[tuple[int, bytes]]:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise D4SError(f"{path} cannot be read ({error.strerror}); expected a file with one JSON object per line") from None
    for number, line in enumerate(content.removeprefix(b"\xef\xbb\xbf").split(b"\n"), start=1):
        if line.strip():
            yield number, line


def parsed(content: bytes, model: type[R]) -> tuple[R | None, list[Flaw]]:
    """One JSON object as a raw record, or else what is wrong with it."""
    try:
        return model.model_validate_json(content), []
    except ValidationError as error:
        return None, [_flaw(item) for item in error.errors(include_url=False)]


def _flaw(item: Any) -> Flaw:
    field = ".".join(str(part) for part in item["loc"]) or "(line)"
    match item["type"]:
        case "json_invalid":
            return Flaw(field, f"broken JSON ({item['ctx']['error']})", "one JSON object")
        case "missing":
            return Flaw(field, "nothing", "this field")
        case "string_too_short":
            return Flaw(field, shown(item["input"]), "text that is not empty")
        case _:
            return Flaw(field, shown(item["input"]), item["msg"].removeprefix("Input should be "))
