"""Settings found by measurement for a model that is named: `d4s tune`, and the short version of models without a column."""

import logging
from collections.abc import Sequence
from pathlib import Path

from d4s.apply.base_model import BaseModelSource
from d4s.apply.chat import render_chat
from d4s.apply.fact_files import RawFact, read_facts
from d4s.apply.history import EditSpec
from d4s.apply.hparams_match import describe_shape, model_shape, no_settings
from d4s.apply.input_preparation import TextSource, rows_of_text
from d4s.apply.prompt_builder import PromptBuilder
from d4s.artifacts import sha256_of
from d4s.editors.settings_file import TunedSettings
from d4s.errors import RecordError, SettingsError
from d4s.facts.jsonl import RecordLine
from d4s.facts.record import Fact
from d4s.settings_base import Frozen
from d4s.tuning.common_relations import COMMON_RELATIONS
from d4s.tuning.known_facts import FEWEST_FACTS, check_facts, known_facts, paraphrase_templates
from d4s.tuning.tune import TOKENS_PER_ENTRY, check_editors, tune, tune_shortly
from d4s.tuning.tuned_columns import lead_of
from d4s.tuning.tuning_parts import TuneOptions, TuningMaterial

log = logging.getLogger(__name__)
TABLE = "the facts of the built-in table that the model knows"
FEWEST_OWN_FACTS = 2  # of a user's, where the model knows too few of the table


class TuneRequest(Frozen):
    """What `d4s tune` was asked for. `facts` are the user's own; `dtype` is that of the weights while measuring, else the model's own."""

    model: str
    out: Path
    dtype: str | None = None
    chat: bool = False
    facts: Path | None = None
    text: TextSource = TextSource()
    revision: str = "main"
    device: str = "cpu"
    options: TuneOptions = TuneOptions()


def tune_model(request: TuneRequest) -> TunedSettings:
    """Settings of editors for a model, measured and written into a folder; the same request resumes.

    Raises:
        SettingsError: if editors are not tried, facts are too few or lack what is measured, or the folder holds another tuning.
        RecordError: if the file of facts has defects, naming all of them.
        D4SError: if there is no such model or text.
    """
    check_editors(request.options.editors)
    if request.text.is_folder:
        raise SettingsError(
            f"tuning takes second moments of layers that it chooses itself, and {request.text.name} is a folder with those of some; "
            "give a text (--text), a data set's name, or leave --moments out"
        )
    base_model = BaseModelSource.of(request.model, request.dtype, request.revision).pinned()
    label = request.text.label(request.options.seed, ())
    model = base_model.load(request.device)
    prompts = PromptBuilder(model, render_chat(model.tokenizer) if request.chat else None)
    if request.facts is None:
        facts, source = _table_facts(prompts), TABLE
    else:
        facts, source = _own_facts(prompts, request.facts), f"the facts of {request.facts.name}"
    check_facts(facts, source)
    log.info("%d facts: %s", len(facts), source)
    material = _material(prompts, facts, request.text, request.options.seed, (base_model.source, source, label))
    identity = {
        "model": base_model.model_dump(mode="json", exclude={"source"} if base_model.files else None),
        "facts": None if request.facts is None else sha256_of(request.facts),
        "text": label,
        "chat": None if prompts.chat is None else prompts.chat.model_dump(),
    }
    return tune(material, request.options, request.out, identity)


def choose_settings(
    prompts: PromptBuilder, editor: str, text: TextSource, seed: int, lines: Sequence[RecordLine[RawFact]]
) -> TunedSettings:
    """The short version for a model without a column, with facts that it knows, or else with the user's own, as they will be edited.

    Raises:
        SettingsError: if tuning finds no settings for the editor, or there are too few facts with paraphrases.
    """
    lead_of(editor)
    model, facts, source = prompts.model, _table_facts(prompts), TABLE
    if len(facts) < FEWEST_FACTS:
        broken = {reject.problem.line for reject in prompts.find_rejects(lines)}
        own = [prompts.fact(EditSpec.of(line.raw), line.number) for line in lines if line.number not in broken]
        facts, source = [fact for fact in own if paraphrase_templates(fact)], "the facts that are to be edited"
    shape = model_shape(model)
    if len(facts) < FEWEST_OWN_FACTS:
        reason = f"the model knows too few facts of the built-in table, and {len(facts)} of the facts to be edited have a paraphrase"
        raise SettingsError(no_settings(shape, f"{reason} that holds the subject once"))
    log.info("no settings are known for %s: they are measured now, on %s", describe_shape(shape), source)
    own_text = TextSource() if text.is_folder else text  # a folder holds the moments of some layers only
    measured = own_text.model_copy(update={"tokens": TOKENS_PER_ENTRY * model.d_in()})
    name = str(model.network.config.name_or_path or type(model.network).__name__)
    return tune_shortly(_material(prompts, facts, measured, seed, (name, source, measured.label(seed, ()))), editor, seed)


def _material(prompts: PromptBuilder, facts: Sequence[Fact], text: TextSource, seed: int, sources: tuple[str, str, str]) -> TuningMaterial:
    model, (source, facts_source, label) = prompts.model, sources
    if prompts.chat is not None:
        facts_source += ", in its chat"
    return TuningMaterial(
        model, facts, lambda tokens: rows_of_text(model, text, tokens, seed), source, facts_source, label, prompts.opening
    )


def _table_facts(prompts: PromptBuilder) -> list[Fact]:
    """The facts of the built-in table that the model knows, worded as they are put to it."""
    return known_facts(prompts.model, [relation.worded(prompts.text) for relation in COMMON_RELATIONS])


def _own_facts(prompts: PromptBuilder, path: Path) -> list[Fact]:
    """The facts of a file as they are measured.

    Raises:
        RecordError: if it has defects, naming all of them.
    """
    lines = read_facts(path)
    if rejects := [*lines.rejects, *prompts.find_rejects(lines.valid)]:
        raise RecordError([reject.problem for reject in rejects])
    return [prompts.fact(EditSpec.of(line.raw), number) for number, line in enumerate(lines.valid, start=1)]
