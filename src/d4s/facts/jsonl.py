"""Raw records from JSON lines: every line is read, and every defect becomes a reject with file, line and field.

Lines end at the newline character only (a record may hold U+2028 and the like). A record is first held against the
pydantic model of its data set, then against that data set's own rules; both speak through `Reject`s, never exceptions.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Generic, TypeVar

from pydantic import BaseModel, ConfigDict, StringConstraints, ValidationError

from d4s.errors import D4SError, RecordError, RecordProblem, SettingsError
from d4s.facts.facts_stage import ReadResult, RecordSource, Reject
from d4s.facts.record import Fact

Text = Annotated[str, StringConstraints(min_length=1, strip_whitespace=True)]
MAX_SHOWN = 80


class Raw(BaseModel):
    """Parent of the raw records: types as they stand in the file, surplus keys ignored, text stripped and not empty."""

    model_config = ConfigDict(frozen=True, strict=True, extra="ignore")


R = TypeVar("R", bound=Raw)
AnyModel = TypeVar("AnyModel", bound=BaseModel)


@dataclass(frozen=True, slots=True)
class Issue:
    """What a data set's own rule finds wrong in a record: the field, what came and what was expected."""

    field: str
    found: str
    expected: str


@dataclass(frozen=True, slots=True)
class RecordLine(Generic[R]):
    """A sound record with the place it came from."""

    file: str
    number: int
    text: str
    raw: R

    def reject(self, issue: Issue) -> Reject:
        """This record, set aside for a flaw."""
        return Reject(RecordProblem(self.file, self.number, issue.field, issue.found, issue.expected), self.text)


@dataclass(frozen=True, slots=True)
class RecordLines(Generic[R]):
    """The lines of a file: sound ones, rejects, and how many there were (blank ones not counted)."""

    valid: list[RecordLine[R]]
    rejects: list[Reject]
    total: int


def no_issues(raw: Raw) -> Iterator[Issue]:
    """The rules of a data set that has none beyond its model."""
    yield from ()


def read_lines(
    path: Path, model: type[R], rules: Callable[[R], Iterable[Issue]] = no_issues, key: Callable[[R], object] | None = None
) -> RecordLines[R]:
    """All lines of a file held against a model and rules; `key` gives what must be unique, None where a record has no id.

    Raises:
        D4SError: if the file cannot be opened or holds no line.
    """
    valid: list[RecordLine[R]] = []
    rejects: list[Reject] = []
    first: dict[object, int] = {}
    total = 0
    for number, content in numbered_lines(path):
        total += 1
        text = content.decode("utf-8", errors="replace")
        raw, issues = parse_record(content, model)
        if raw is not None:
            issues = list(rules(raw))
            own = key(raw) if key else None
            if own is not None and first.setdefault(own, number) != number:
                issues.append(Issue("id", repr(own), f"an id of its own, line {first[own]} has it already"))
        if raw is not None and not issues:
            valid.append(RecordLine(path.name, number, text, raw))
        rejects.extend(Reject(RecordProblem(path.name, number, issue.field, issue.found, issue.expected), text) for issue in issues)
    if not total:
        raise D4SError(f"{path} holds no records: expected one JSON object per line")
    return RecordLines(valid, rejects, total)


def valid_lines(
    path: Path, model: type[R], rules: Callable[[R], Iterable[Issue]] = no_issues, key: Callable[[R], object] | None = None
) -> list[RecordLine[R]]:
    """The lines of a file that must hold no defect.

    Raises:
        RecordError: naming every defect.
    """
    lines = read_lines(path, model, rules, key)
    if lines.rejects:
        raise RecordError([reject.problem for reject in lines.rejects])
    return lines.valid


def result_of_lines(
    source: RecordSource, lines: RecordLines[R], taken: Sequence[Sequence[Fact]], left_out: Sequence[Reject] = ()
) -> ReadResult:
    """The reading of a file whose sound records gave facts (`taken`: one entry per record), cut at the source's limit."""
    kept = taken[: source.limit]
    facts = [fact for facts in kept for fact in facts]
    return ReadResult(facts, lines.total, len(kept), len(taken) - len(kept), lines.rejects, left_out)


def refuse_styles(source: RecordSource) -> None:
    """Refuse a style where the data set has only one reading.

    Raises:
        SettingsError: if a style is given.
    """
    choose_style(source, ("",))


def choose_style(source: RecordSource, styles: Sequence[str]) -> str:
    """The reading that a source asks for; the first of `styles` when it names none.

    Raises:
        SettingsError: if there is no such reading.
    """
    if source.style and source.style not in styles:
        readings = f"it has {', '.join(styles)}" if any(styles) else "it has only one: leave `style` out"
        raise SettingsError(f"{source.path.name}: unknown style {source.style!r}; {readings}")
    return source.style or styles[0]


def shorten(value: object) -> str:
    """A value as it is shown in a problem: its repr, shortened."""
    text = repr(value)
    return text if len(text) <= MAX_SHOWN else f"{text[: MAX_SHOWN - 1]}…"


def template_issues(field: str, template: str) -> Iterator[Issue]:
    """Whether a template has its one `{}` and no other brace."""
    if template.count("{}") != 1:
        yield Issue(field, shorten(template), "exactly one {} for the subject")
    elif set(template.replace("{}", "")) & {"{", "}"}:
        yield Issue(field, shorten(template), "no braces but the one {} for the subject")


def subject_issues(field: str, text: str, subject: str) -> Iterator[Issue]:
    """Whether a text holds its subject exactly once, so that the place to fill in is certain, and no brace."""
    if text.count(subject) != 1:
        yield Issue(field, shorten(text), f"the subject {shorten(subject)} exactly once, not {text.count(subject)} times")
    if set(text) & {"{", "}"}:
        yield Issue(field, shorten(text), "text without braces, which mark the place of the subject")


def numbered_lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """The lines of a file that are not blank, with their numbers from 1 on.

    Raises:
        D4SError: if it cannot be opened.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise D4SError(f"{path} cannot be read ({error.strerror}); expected a file with one JSON object per line") from None
    for number, line in enumerate(content.removeprefix(b"\xef\xbb\xbf").split(b"\n"), start=1):
        if line.strip():
            yield number, line


def parse_record(content: bytes, model: type[AnyModel]) -> tuple[AnyModel | None, list[Issue]]:
    """One JSON object held against a model, or else what is wrong with it."""
    try:
        return model.model_validate_json(content), []
    except ValidationError as error:
        return None, [_issue(item) for item in error.errors(include_url=False)]


def _issue(item: Any) -> Issue:
    field = ".".join(str(part) for part in item["loc"]) or "(line)"
    match item["type"]:
        case "json_invalid":
            return Issue(field, f"broken JSON ({item['ctx']['error']})", "one JSON object")
        case "missing":
            return Issue(field, "nothing", "this field")
        case "string_too_short":
            return Issue(field, shorten(item["input"]), "text that is not empty")
        case _:
            return Issue(field, shorten(item["input"]), item["msg"].removeprefix("Input should be "))
