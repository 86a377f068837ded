"""Writers: they turn an item into drafts of the three forms, which `d4s.questions.draft_checks` checks."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from d4s.config import Control, Form, QuestionsSettings
from d4s.questions.event_templates import EVENT_TEMPLATES, LETTERS, MULTIPLE_CHOICE_FRAMES, NO, TRUE_FALSE_FRAMES, YES, format_options
from d4s.questions.question_items import Item, keyed_rng
from d4s.registry import Registry

PARAPHRASES = 2


@dataclass(frozen=True, slots=True)
class Draft:
    """One item in one form: templates with one `{}` for the head; training text uses `wordings`, never `paraphrases`.

    `options` are those of multiple choice where they are not the item's own. `attempts` counts the answers requested,
    `fell_back` is the reason why a template took their place.
    """

    form: Form | Control
    template: str
    target_true: str
    target_new: str
    paraphrases: tuple[str, ...]
    wordings: tuple[str, ...]
    aliases: tuple[str, ...] = ()
    options: tuple[str, ...] = ()
    writer: str = "template"
    prompt_version: str = ""
    response_sha256: str = ""
    attempts: int = 0
    fell_back: str = ""


@runtime_checkable
class Writer(Protocol):
    """Words items in a form; the draft of an item does not depend on the other items."""

    name: str
    usage: Mapping[str, Mapping[str, int]]
    """Requests and tokens so far, by form; empty where no model is used."""

    def write(self, items: Sequence[Item], form: Form) -> list[Draft]:
        """One draft per item, in order."""
        ...


WRITERS = Registry(
    "writer",
    {
        "template": "d4s.questions.writers:template_writer",
        "openai": "d4s.questions.language_model_writer:openai_writer",
        "replay": "d4s.questions.language_model_writer:replay_writer",
    },
)
"""Each target makes a writer from the settings of the stage."""


def make_writer(settings: QuestionsSettings) -> Writer:
    """The writer named by settings of the stage."""
    return WRITERS.load(writer_name(settings))(settings)


def writer_name(settings: QuestionsSettings) -> str:
    """The name of the writer in settings of the stage."""
    return settings.writer if isinstance(settings.writer, str) else settings.writer.writer


def template_writer(settings: QuestionsSettings) -> Writer:
    """A writer with fixed wordings."""
    return TemplateWriter(settings.seed)


class TemplateWriter:
    """Fills fixed wordings; which of them are for training and which are withheld is drawn per event and form."""

    name = "template"
    version = "template-2"
    usage: Mapping[str, Mapping[str, int]] = {}

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def write(self, items: Sequence[Item], form: Form) -> list[Draft]:
        """One draft per item, in order."""
        return [self._draft(item, form) for item in items]

    def _draft(self, item: Item, form: Form) -> Draft:
        frames, target_true, target_new = _templates_and_targets(item, form)
        order = keyed_rng("wording", self.seed, form, item.event_id).permutation(len(frames))
        shuffled = [frames[int(index)] for index in order]
        return Draft(
            form=form,
            template=shuffled[PARAPHRASES],
            target_true=target_true,
            target_new=target_new,
            paraphrases=tuple(shuffled[:PARAPHRASES]),
            wordings=tuple(shuffled[PARAPHRASES + 1 :]),
            aliases=item.aliases if form == "directly_generated" else (),
            prompt_version=self.version,
        )


def _templates_and_targets(item: Item, form: Form) -> tuple[list[str], str, str]:
    """All wordings of an item in a form, its true target and its counterfactual one."""
    wording = EVENT_TEMPLATES[item.relation]
    if form == "directly_generated":
        return list(wording.statements), item.tail, item.new_tail
    if form == "multiple_choice":
        frames = [
            frame.replace("{claim}", wording.claim).replace("{options}", format_options(item.options)) for frame in MULTIPLE_CHOICE_FRAMES
        ]
        return frames, LETTERS[item.answer], LETTERS[item.counterfactual]
    frames = [frame.replace("{claim}", wording.claim).replace("{tail}", item.stated_tail) for frame in TRUE_FALSE_FRAMES]
    return (frames, YES, NO) if item.states_truth else (frames, NO, YES)
