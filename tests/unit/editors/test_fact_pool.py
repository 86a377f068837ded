"""The pool of true sentences: none of it is measured, the model knows it, and it is encoded as it is read."""

import itertools
from dataclasses import replace
from pathlib import Path

import pytest

from d4s.artifacts import Artifact, StageJob, write_table
from d4s.config import FactsSettings
from d4s.editors.editor_settings import resolve
from d4s.editors.fact_pool import FactPool, prepare_pool, unmeasured_facts
from d4s.editors.parts.input_settings import FactPoolSettings, PrepareSettings
from d4s.editors.preparation import prepare, prepare_tensors
from d4s.errors import SettingsError
from d4s.facts.record import Probe, to_rows
from d4s.models.tokens import encode, encode_parts
from d4s.models.views import LiveModel
from d4s.schemas import FACTS
from tests.tiny import bpe_tokenizer, metaspace_tokenizer, tiny_facts

EDITED, APART = tiny_facts(12), tiny_facts(40)[24:]
ANY = FactPoolSettings(count=8, known=False)


def test_no_sentence_is_about_a_subject_of_a_request_or_of_a_probe() -> None:
    everyone = tiny_facts(40)
    found = [*unmeasured_facts(everyone, EDITED)]
    asked = " ".join(probe.prompt for fact in EDITED for probe in fact.neighborhood)
    assert found and not {fact.subject for fact in found} & {fact.subject for fact in EDITED}
    assert not any(fact.subject in asked for fact in found)
    near = replace(EDITED[0], neighborhood=(Probe("neighborhood", f"{APART[3].subject} lives in the city of", "Oslo"),))
    assert APART[3] in found and APART[3] not in [*unmeasured_facts(everyone, [near, *EDITED])]
    assert [*unmeasured_facts([replace(APART[0], target_true="")], EDITED)] == []


def test_facts_that_only_serve_as_probes_of_nothing_may_be_sentences() -> None:
    silent = [replace(fact, editable=False) for fact in APART]
    assert [*unmeasured_facts(APART, [*EDITED, *silent])] == APART


def test_a_pool_that_is_measured_is_refused(tiny_model) -> None:
    with pytest.raises(
        SettingsError, match=r"only 0 of 12 facts of the pool .* no request and no probe names; at least 4 .*world\.reserve"
    ):
        prepare_pool(tiny_model(), ANY.model_copy(update={"least": 4}), EDITED, EDITED)


def test_only_sentences_that_the_model_completes_are_known(tiny_model) -> None:
    model = tiny_model(seed=2)
    prompts = [fact.prompt for fact in APART]
    said = [text.strip() for text in LiveModel(model).generate(prompts, 1)]
    answers = [text if number % 2 else "Oslo" for number, text in enumerate(said)]
    facts = [replace(fact, target_true=answer) for fact, answer in zip(APART, answers, strict=True)]
    known = prepare_pool(model, FactPoolSettings(count=99), facts, EDITED)
    right = LiveModel(model).score(prompts, [fact.target_true for fact in facts]).exact()
    assert 0 < int(right.sum()) == len(known.sentences) < len(facts)


def test_a_pool_does_not_depend_on_the_order_of_facts_and_grows_at_its_end(tiny_model) -> None:
    model = tiny_model()
    whole = prepare_pool(model, ANY, APART, EDITED)
    assert prepare_pool(model, ANY, APART[::-1], EDITED) == whole
    assert prepare_pool(model, ANY.model_copy(update={"count": 3}), APART, EDITED).sentences == whole.sentences[:3]
    assert FactPool.of(whole.tensors()) == whole


@pytest.mark.parametrize("tokenizer", [bpe_tokenizer, metaspace_tokenizer, None])
def test_sentences_are_encoded_as_they_stand_behind_another(tiny_model, tokenizer) -> None:
    model = tiny_model(tokenizer=tokenizer() if tokenizer else None, positions=96)
    pool = prepare_pool(model, ANY.model_copy(update={"separator": " . "}), APART[:1], EDITED)
    ((separator, ids),) = pool.sentences
    statement = f"{APART[0].prompt} {APART[0].target_true}"
    assert [*encode(model, statement), *separator, *ids] == encode(model, f"{statement} . {statement}.")
    assert separator and model.tokenizer.decode(ids).strip().startswith(APART[0].subject[:2])


def test_parts_of_a_text_have_all_its_tokens_and_share_none(tiny_model) -> None:
    model = tiny_model(tokenizer=bpe_tokenizer(), positions=96)
    parts = ["Ada Moss lives", " in the", "", " city of", " Paris"]
    found = encode_parts(model, parts)
    assert [*itertools.chain(*found)] == encode(model, "".join(parts)) and found[2] == []
    assert model.tokenizer.decode(found[3]) == " city of"


def test_the_stage_writes_the_pool_and_how_large_it_is(tiny_model, tmp_path: Path) -> None:
    model = tiny_model()
    for folder in (model.network, model.tokenizer):
        folder.save_pretrained(tmp_path / "model")
    for role, facts in {"facts": EDITED, "pool": APART}.items():
        write_table(tmp_path / role / "facts.parquet", to_rows(facts), FACTS)
        StageJob("facts", FactsSettings(source="tiny"), {}, tmp_path / role).write_manifest(["facts.parquet"])
    inputs = {role: tmp_path / role for role in ("model", "facts", "pool")}
    prepare(StageJob("prepared", PrepareSettings(facts=ANY), inputs, tmp_path / "prepared"))
    artifact = Artifact.open(tmp_path / "prepared", "prepared")
    assert artifact.manifest.notes == {"free": {}, "sentences": 8}
    assert FactPool.of(artifact.tensors("prepared.safetensors")) == prepare_pool(model, ANY, APART, EDITED)


def test_without_a_study_there_are_no_sentences(tiny_model) -> None:
    with pytest.raises(SettingsError, match=r"which only the data sets of a study have; run a study \(grids/saul\.yaml is one\)"):
        prepare_tensors(resolve("saul", {}, "mini").prepare_settings(), {}, tiny_model(), ())
