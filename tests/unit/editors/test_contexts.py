from pathlib import Path

import pytest
import torch

from d4s.artifacts import Artifact, StageJob, write_json
from d4s.config import ContextsSettings
from d4s.editors.contexts import as_prefix, contexts, read_contexts, sample_prefixes
from d4s.errors import ArtifactError
from d4s.models.tokens import encode
from tests.tiny import bpe_tokenizer

SETTINGS = ContextsSettings(count=4, tokens=6, seed=3)


def test_the_seed_decides(tiny_model) -> None:
    model = tiny_model()
    first = sample_prefixes(model, SETTINGS)
    assert first == sample_prefixes(model, SETTINGS) and len(first) == 4
    assert first != sample_prefixes(model, SETTINGS.model_copy(update={"seed": 4}))
    assert sample_prefixes(model, SETTINGS.model_copy(update={"count": 2})) == first[:2]


def test_prefixes_are_sentences_of_the_models_own_words(tiny_model) -> None:
    model = tiny_model()
    for text in sample_prefixes(model, SETTINGS):
        assert text.endswith((".", "!", "?")) and "{" not in text and "<" not in text
        assert len(encode(model, text)) <= 1 + 6 + 1


def test_every_token_is_among_the_likeliest(tiny_model) -> None:
    model = tiny_model()
    greedy = sample_prefixes(model, ContextsSettings(count=1, tokens=5, top_k=1, seed=0))[0]
    ids = encode(model, greedy)
    for position in range(2, 6):
        logits = model.network(input_ids=torch.tensor([ids[:position]])).logits[0, -1]
        logits[model.tokenizer.all_special_ids] = -torch.inf
        assert int(logits.argmax()) == ids[position]


def test_sampling_leaves_the_global_generator_alone(tiny_model) -> None:
    model = tiny_model()
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    sample_prefixes(model, SETTINGS)
    assert torch.equal(torch.rand(1), expected)


def test_a_tokenizer_without_bos_starts_from_a_word(tiny_model) -> None:
    tokenizer = bpe_tokenizer()
    tokenizer.bos_token = tokenizer.eos_token = None
    for text in sample_prefixes(tiny_model(tokenizer=tokenizer), SETTINGS):
        assert text.startswith("The")


@pytest.mark.parametrize(
    ("text", "expected"), [("a {b}\n c", "a b c."), (" It is so. ", "It is so."), ("Is it ?", "Is it ?"), ("one two .", "one two .")]
)
def test_texts_become_prefixes(text: str, expected: str) -> None:
    assert as_prefix(text) == expected


def test_the_verb_writes_what_readers_get(tiny_model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("d4s.editors.contexts.load", lambda folder: tiny_model())
    contexts(StageJob("contexts", SETTINGS, {"model": tmp_path}, tmp_path / "c"))
    assert read_contexts(tmp_path / "c") == tuple(sample_prefixes(tiny_model(), SETTINGS))
    assert Artifact.open(tmp_path / "c", "contexts").manifest.settings == SETTINGS.model_dump()


def test_what_is_no_list_of_texts_is_refused(tmp_path: Path) -> None:
    write_json(tmp_path / "contexts.json", {"contexts": ["a", 1]})
    StageJob("contexts", SETTINGS, {}, tmp_path).write_manifest(["contexts.json"])
    with pytest.raises(ArtifactError, match="holds no list of texts; delete"):
        read_contexts(tmp_path)
