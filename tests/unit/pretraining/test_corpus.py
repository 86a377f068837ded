"""The corpus: what is taught and what never is, what tokens weigh, how rows are filled, which tokenizers come out."""

import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from d4s.artifacts import Artifact, StageJob, write_table
from d4s.config import CorpusSettings, FactsSettings, QuestionsSettings, TokenizerSettings
from d4s.errors import SettingsError
from d4s.facts.facts_stage import facts as collect
from d4s.facts.record import Fact, from_frame, to_rows
from d4s.pretraining.free_text import RunningText
from d4s.pretraining.packing import Packer, WeightedTokens, encode, pack_text
from d4s.pretraining.sentences import Sentence, SentenceSampler, ShuffledSampler, TrainingExample, mixture, training_examples
from d4s.pretraining.tokenizer_training import BOS, UNKNOWN, bos_of, bpe_tokenizer, word_tokenizer
from d4s.questions.question_facts import questions
from d4s.schemas import FACTS
from d4s.world.world_stage import world
from tests.corpora import SMALL, Inputs, articles_file, fact, written


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Inputs:
    store = tmp_path_factory.mktemp("store")

    def folder(name: str) -> Path:
        (store / name).mkdir()
        return store / name

    made = {"world": folder("world"), "teach_world_qa": folder("qa")}
    world(StageJob("worlds", SMALL, {}, made["world"]))
    collect(StageJob("facts", FactsSettings(source="world", style="qa"), {"world": made["world"]}, made["teach_world_qa"]))
    for form in ("true_false", "multiple_choice", "directly_generated"):
        made[f"teach_{form}"] = folder(form)
        questions(StageJob("facts", QuestionsSettings(form=form), {"world": made["world"]}, made[f"teach_{form}"]))
    return made


@pytest.fixture(scope="module")
def taught(inputs: Inputs) -> dict[str, list[Fact]]:
    roles = [role for role in inputs if role != "world"]
    return {role: from_frame(Artifact.open(inputs[role], "facts").table("facts.parquet", FACTS)) for role in roles}


# --- sentences --------------------------------------------------------------------------------------------------------


def test_a_paraphrase_is_no_lesson_even_when_it_is_among_the_wordings() -> None:
    (example,) = training_examples([fact()])
    assert example.templates == ("{} lives in", "Where does {} live?")


def test_no_sentence_ever_holds_a_paraphrase(taught: dict[str, list[Fact]]) -> None:
    rng = np.random.default_rng(0)
    withheld = {prompt for facts in taught.values() for fact in facts for prompt in fact.paraphrases}
    sentences = mixture({name: SentenceSampler(training_examples(facts), CorpusSettings()) for name, facts in taught.items()}, {}, rng)
    for _ in range(3000):
        sentence, _ = next(sentences)
        assert not [prompt for prompt in withheld if f"{prompt} " in f"{sentence.text} "]


def test_answers_of_a_sentence_are_what_is_true(taught: dict[str, list[Fact]]) -> None:
    facts = taught["teach_world_qa"]
    truth = {(fact.subject, fact.target_true) for fact in facts}
    sampler, rng = SentenceSampler(training_examples(facts), CorpusSettings(chained=0.5)), np.random.default_rng(1)
    told = Counter()
    for _ in range(300):
        sentence, _ = sampler.sentence(rng)
        subject = next(subject for subject, _ in truth if subject in sentence.text)
        answers = [sentence.text[start:end] for start, end in sentence.answers]
        assert all((subject, answer) in truth for answer in answers)
        assert sentence.text.count(subject) == 1
        assert sentence.text.endswith(".")
        told[len(answers)] += 1
    assert set(told) == {1, 2, 3}


def test_chains_read_as_one_sentence() -> None:
    facts = [fact(0), fact(0, relation="job", template="{} works as a", target_true="baker", wordings=(), paraphrases=())]
    sampler = SentenceSampler(training_examples(facts), CorpusSettings(chained=1.0))
    texts = {sampler.sentence(np.random.default_rng(seed))[0].text for seed in range(20)}
    assert texts == {"Subject0 lives in Oslo and works as a baker.", "Subject0 works as a baker and lives in Oslo."}


def test_a_chain_drops_the_links_that_its_parts_bring() -> None:
    examples = [
        TrainingExample("Xi sleeps", relation, (template,), answer)
        for relation, template, answer in (("a", "{} and then wants to", "eat"), ("b", "{}, but first had to", "work"))
    ]
    sampler = SentenceSampler(examples, CorpusSettings(chained=1.0))
    texts = {sampler.sentence(np.random.default_rng(seed))[0].text for seed in range(20)}
    assert texts == {
        "Xi sleeps and then wants to eat, but first had to work.",
        "Xi sleeps, but first had to work and then wants to eat.",
    }


def test_questions_weigh_their_label_and_are_never_chained() -> None:
    asked = [fact(0, template=f"Is it {k}, {{}}?", target_true="yes", target_new="no", wordings=(), relation=f"r{k}") for k in range(2)]
    settings = CorpusSettings(chained=1.0, question_prompt_weight=0.1, answer_weight=4.0)
    sentence, is_clause = SentenceSampler(training_examples(asked), settings).sentence(np.random.default_rng(0))
    assert (sentence.weight, sentence.answer_weight, len(sentence.answers)) == (0.1, 4.0, 1)
    assert not is_clause


def test_a_lead_in_moves_the_answers() -> None:
    sentence = Sentence("Bo lives in Oslo.", ((12, 16),)).after("people say that")
    assert [sentence.text[start:end] for start, end in sentence.answers] == ["Oslo"]
    assert Sentence("x").after("") == Sentence("x")


@given(st.integers(1, 12), st.integers(1, 5), st.integers(0, 99))
def test_a_deck_deals_every_card_equally_often(cards: int, passes: int, seed: int) -> None:
    deck, rng = ShuffledSampler(range(cards)), np.random.default_rng(seed)
    assert Counter(deck.draw(rng) for _ in range(cards * passes)) == dict.fromkeys(range(cards), passes)


def test_shares_multiply_the_number_of_facts() -> None:
    few, many = [fact(k) for k in range(10)], [fact(k, target_true="Rome", target_new="Oslo") for k in range(30)]
    samplers = {
        name: SentenceSampler(training_examples(facts), CorpusSettings(chained=0)) for name, facts in (("few", few), ("many", many))
    }

    def share_of_few(shares: dict[str, float]) -> float:
        sentences = mixture(samplers, shares, np.random.default_rng(0))
        return sum("Oslo" in next(sentences)[0].text for _ in range(2000)) / 2000

    assert share_of_few({}) == pytest.approx(0.25, abs=0.05)
    assert share_of_few({"few": 3.0}) == pytest.approx(0.5, abs=0.05)
    assert share_of_few({"few": 0.0}) == 0.0


# --- rows -------------------------------------------------------------------------------------------------------------

words = word_tokenizer(["a b c d e Oslo . ?", "x y z"], 16)


def test_tokens_of_an_answer_carry_its_weight() -> None:
    found = encode(words.backend_tokenizer, Sentence("a b? Oslo.", ((5, 9),), 0.1, 4.0))
    assert words.convert_ids_to_tokens(found.ids) == ["a", "b", "?", "Oslo", "."]
    assert found.weights == [0.1, 0.1, 0.1, 4.0, 0.1]


@settings(max_examples=25)
@given(st.lists(st.integers(1, 20), min_size=30, max_size=30), st.integers(8, 16))
def test_no_sentence_is_cut(lengths: list[int], length: int) -> None:
    sentences: Iterator[WeightedTokens] = iter([WeightedTokens([10 + k] * n, [1.0] * n) for k, n in enumerate(lengths * 20)])
    filler = iter([WeightedTokens([1] * 5, [0.5] * 5)] * 10_000)
    packer = Packer(sentences, filler, length, bos=0)
    for _ in range(8):
        row = packer.row()
        assert (len(row.ids), len(row.weights), row.ids[0], row.weights[0]) == (length, length, 0, 0.0)
        for token, count in Counter(row.ids[1:]).items():
            assert token == 1 or count == (lengths * 20)[token - 10]
        first_filler = row.ids.index(1) if 1 in row.ids else length
        assert set(row.ids[first_filler:]) <= {1}, "free text only where nothing else fits"
    assert packer.too_long <= sum(n >= length for n in lengths * 20)


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_a_share_of_rows_starts_with_bos_and_the_others_with_a_sentence(inputs: Inputs, tmp_path: Path, share: float) -> None:
    artifact = written(tmp_path / "corpus", inputs, bos=share)
    rows, weights = (artifact.tensors("tokens.safetensors")[name] for name in ("rows", "weights"))
    first = rows[:, 0] == 0
    assert rows.shape == (100, 64) and int(first.sum()) == 100 * share and first[:2].sum() == 2 * share
    assert (rows[:, 1:] == 0).sum() == 0 and bool((weights[~first][:, 0] > 0).all())


def test_rows_of_free_text_hold_no_fact() -> None:
    packer = Packer(iter([WeightedTokens([7], [1.0])] * 100), iter([WeightedTokens([1, 2, 3], [1.0] * 3)] * 100), 8, bos=0)
    assert packer.row(free_text_only=True).ids == [0, 1, 2, 3, 1, 2, 3, 1]


def test_text_is_packed_with_and_without_bos() -> None:
    texts = [[1, 2, 3], [4, 5, 6, 7]]
    assert pack_text(texts, 4, 0).tolist() == [[0, 1, 2, 3], [0, 4, 5, 6]]
    assert pack_text(texts, 3, None).tolist() == [[1, 2, 3], [4, 5, 6]]


# --- tokenizers -------------------------------------------------------------------------------------------------------


def test_word_tokenizer_gives_a_token_per_word_and_mark_and_survives_saving(tmp_path: Path) -> None:
    tokenizer = word_tokenizer(["Where was Ada born? Oslo.", "a) sell tea"], 64)
    ids = tokenizer("Where was Ada born? Paris.")["input_ids"]
    assert tokenizer.convert_ids_to_tokens(ids) == [BOS, "Where", "was", "Ada", "born", "?", UNKNOWN, "."]
    tokenizer.save_pretrained(tmp_path)
    again = AutoTokenizer.from_pretrained(tmp_path)
    assert again("a) sell Oslo")["input_ids"] == tokenizer("a) sell Oslo")["input_ids"]
    assert (bos_of(again), again.eos_token, again.model_max_length) == (0, BOS, 64)


def test_bpe_cuts_a_sentence_alike_wherever_it_stands() -> None:
    tokenizer = bpe_tokenizer(["The mother tongue of Ada is Norwegian."] * 4, 300, 64)
    backend = tokenizer.backend_tokenizer
    alone = [backend.encode(text, add_special_tokens=False).ids for text in ("Ada is old.", "Norwegian is it.")]
    joined = backend.encode("Ada is old. Norwegian is it.", add_special_tokens=False).ids
    assert alone[0] + alone[1] == joined
    assert tokenizer.decode(joined).strip() == "Ada is old. Norwegian is it."


# --- the stage ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def of_world(inputs: Inputs, tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return written(tmp_path_factory.mktemp("corpora") / "world", inputs)


def tokenizer_of(artifact: Artifact) -> PreTrainedTokenizerFast:
    return AutoTokenizer.from_pretrained(artifact.folder / "tokenizer")


def test_the_world_is_a_closed_vocabulary(of_world: Artifact, taught: dict[str, list[Fact]]) -> None:
    tokenizer = tokenizer_of(of_world)
    unknown = tokenizer.convert_tokens_to_ids(UNKNOWN)
    rows = of_world.tensors("tokens.safetensors")["rows"]
    assert rows.shape == (100, 64)
    assert unknown not in set(rows.flatten().tolist())
    assert unknown not in set(of_world.tensors("heldout.safetensors")["rows"].flatten().tolist())
    for facts in taught.values():
        for item in facts:
            for text in (*item.paraphrases, item.target_new, *(probe.prompt for probe in item.neighborhood)):
                assert unknown not in tokenizer(text)["input_ids"]


def test_names_and_objects_are_one_token_each(of_world: Artifact, taught: dict[str, list[Fact]]) -> None:
    tokenizer = tokenizer_of(of_world)
    for item in taught["teach_world_qa"]:
        assert len(tokenizer(item.target_true)["input_ids"]) == 2
        assert len(tokenizer(item.subject)["input_ids"]) == 3


def test_weights_stress_labels(of_world: Artifact) -> None:
    tensors = of_world.tensors("tokens.safetensors")
    rows, weights = tensors["rows"], tensors["weights"].float()
    tokenizer = tokenizer_of(of_world)
    assert weights[:, 0].eq(0).all()
    heavy = {tokenizer.convert_ids_to_tokens(int(token)) for token in rows[weights == 4.0].unique()}
    assert heavy == {"yes", "no", "a", "b", "c", "d"}
    assert {round(value, 1) for value in weights.unique().tolist()} <= {0.0, 0.1, 4.0, 1.0, *_default_weights()}


def _default_weights() -> set[float]:
    settings = CorpusSettings()
    return {round(settings.prompt_weight, 1), round(settings.text_weight, 1)}


def test_a_question_is_never_cut(of_world: Artifact) -> None:
    backend = tokenizer_of(of_world).backend_tokenizer
    for row in of_world.tensors("tokens.safetensors")["rows"].tolist():
        text = backend.decode(row)
        assert len(re.findall(r" a \) ", text)) == len(re.findall(r" d \) [^.]* \. [^.]* is [abcd] \.", text))


def test_same_job_same_bytes_other_seed_other_rows(of_world: Artifact, inputs: Inputs, tmp_path: Path) -> None:
    assert written(tmp_path / "again", inputs).manifest.files == of_world.manifest.files
    other = written(tmp_path / "other", inputs, seed=1).manifest.files
    assert other["tokens.safetensors"] != of_world.manifest.files["tokens.safetensors"]


def test_paragraphs_are_plain_text_without_headings(tmp_path: Path) -> None:
    text = RunningText.read(articles_file(tmp_path / "text.jsonl"))
    assert (len(text.lines), len(text.heldout)) == (3, 1)
    assert "mill-house stood by the river for 1,200 years" in text.lines[0]
    assert not [line for line in (*text.lines, *text.heldout) if "=" in line or "@" in line or "short" in line]


def records(folder: Path) -> Path:
    folder.mkdir()
    cities = ("Oslo", "Rome", "Lima", "Cairo")
    facts = [fact(k, target_true=cities[k % 4], target_new=cities[(k + 1) % 4]) for k in range(12)]
    write_table(folder / "facts.parquet", to_rows(facts), FACTS)
    StageJob("facts", FactsSettings(source="test"), {}, folder).write_manifest(["facts.parquet"])
    return folder


def test_real_text_and_records_go_through_bpe(tmp_path: Path) -> None:
    inputs = {"text": articles_file(tmp_path / "text.jsonl"), "teach_test": records(tmp_path / "facts")}
    made = written(tmp_path / "made", inputs, tokenizer=TokenizerSettings(kind="bpe", vocabulary=400), filler=0.3)
    tokenizer = tokenizer_of(made)
    rows = [tokenizer.backend_tokenizer.decode(row) for row in made.tensors("tokens.safetensors")["rows"].tolist()]
    assert any("Oslo" not in row and "mill" in row for row in rows), "some rows are text alone"
    assert any(re.search(r"Subject\d+ lives in Oslo\.", row) for row in rows)
    assert not [row for row in rows if "delta" in row], "held-out articles are never trained on"
    heldout = tokenizer.backend_tokenizer.decode(made.tensors("heldout.safetensors")["rows"][0].tolist())
    assert "mill-house" in heldout
    for target in ("Oslo", "Rome", "Lima", "Cairo"):
        assert len(tokenizer.backend_tokenizer.encode(target, add_special_tokens=False).ids) == 1


def test_a_given_model_reads_running_text_in_its_own_tokens(tmp_path: Path) -> None:
    text = articles_file(tmp_path / "text.jsonl")
    bpe_tokenizer(RunningText.read(text).lines, 300, 64).save_pretrained(tmp_path / "model")
    made = written(tmp_path / "made", {"text": text, "model": tmp_path / "model"}, tokenizer=TokenizerSettings(kind="model"))
    tensors = made.tensors("tokens.safetensors")
    assert tensors["weights"].eq(1).all()
    assert tensors["rows"][:, 0].eq(0).all()
    assert "mill-house" in tokenizer_of(made).decode(tensors["rows"][0].tolist())


def test_a_corpus_that_cannot_be_made_is_refused(tmp_path: Path) -> None:
    text = articles_file(tmp_path / "text.jsonl")
    with pytest.raises(SettingsError, match="at least one input teach_NAME"):
        written(tmp_path / "a", {"text": text})
    inputs = {"text": text, "model": tmp_path, "teach_test": records(tmp_path / "facts")}
    with pytest.raises(SettingsError, match="running text only"):
        written(tmp_path / "b", inputs, tokenizer=TokenizerSettings(kind="model"))
