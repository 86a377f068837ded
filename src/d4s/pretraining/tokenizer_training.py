"""Tokenizers of trained models, as ordinary Hugging Face tokenizers that put BOS first."""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from d4s.artifacts import POINTER, Artifact
from d4s.config import TokenizerSettings
from d4s.facts.joining import with_delimiter
from d4s.facts.record import Fact
from d4s.pretrained import read_tokenizer

BOS, UNKNOWN = "<bos>", "<unk>"
TARGET_REPEATS, SUBJECT_REPEATS = 4, 2


def word_tokenizer(texts: Iterable[str], positions: int) -> PreTrainedTokenizerFast:
    """A tokenizer in which every word and every punctuation mark of the texts is one token; others become `<unk>`."""
    splitter = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Punctuation()])
    words = sorted({word for text in set(texts) for word, _ in splitter.pre_tokenize_str(text)})
    tokenizer = Tokenizer(models.WordLevel({word: index for index, word in enumerate([BOS, UNKNOWN, *words])}, UNKNOWN))
    tokenizer.pre_tokenizer = splitter
    return _as_fast_tokenizer(tokenizer, positions, unk_token=UNKNOWN)


def bpe_tokenizer(texts: Iterable[str], size: int, positions: int) -> PreTrainedTokenizerFast:
    """Byte-level BPE trained on the texts; a word is tokenised alike anywhere, since its space belongs to it."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=size, special_tokens=[BOS], initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(texts, trainer)
    return _as_fast_tokenizer(tokenizer, positions)


def load_given_tokenizer(folder: Path) -> PreTrainedTokenizerFast:
    """The tokenizer of a given model: in its folder, or at the path in an adopted model's pointer."""
    if not (folder / POINTER).is_file():
        return read_tokenizer(str(folder))
    pointer = Artifact.open(folder, "models").json(POINTER)
    return read_tokenizer(pointer["path"], pointer["revision"])


def bos_of(tokenizer: PreTrainedTokenizerFast) -> int | None:
    """Id of the token that begins a text; None where the tokenizer has none."""
    return None if tokenizer.bos_token is None else tokenizer.backend_tokenizer.token_to_id(str(tokenizer.bos_token))


def _as_fast_tokenizer(tokenizer: Tokenizer, positions: int, **special: str) -> PreTrainedTokenizerFast:
    bos = tokenizer.token_to_id(BOS)
    tokenizer.post_processor = processors.TemplateProcessing(single=f"{BOS} $A", pair=f"{BOS} $A $B", special_tokens=[(BOS, bos)])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=BOS,
        eos_token=BOS,
        pad_token=BOS,
        model_max_length=positions,
        clean_up_tokenization_spaces=False,
        **special,
    )


def train_tokenizer(settings: TokenizerSettings, facts: Sequence[Fact], text: Sequence[str], positions: int) -> PreTrainedTokenizerFast:
    """The tokenizer for settings, trained on all texts that the model is trained on or asked."""
    if settings.kind == "word":
        return word_tokenizer([*fact_texts(facts), *text], positions)
    return bpe_tokenizer([*_repeated_targets(facts), *fact_texts(facts), *text], settings.vocabulary, positions)


def fact_texts(facts: Sequence[Fact]) -> Iterator[str]:
    """All texts of a data set that are trained on or asked."""
    for fact in facts:
        yield from (template.replace("{}", fact.subject) for template in (fact.template, *fact.wordings))
        yield from (*fact.paraphrases, fact.target_true, fact.target_new, *fact.target_true_aliases)
        for probe in fact.neighborhood:
            yield with_delimiter(probe.prompt) + (probe.answer or "")
        for chain in fact.portability:
            yield from (chain.prompt, *chain.answers)
    yield "a, b and c."


def _repeated_targets(facts: Sequence[Fact]) -> Iterator[str]:
    """Targets and subjects, repeated so that most of the targets become one token."""
    for fact in facts:
        yield from (fact.target_true, fact.target_new) * TARGET_REPEATS
        yield from (fact.subject,) * SUBJECT_REPEATS
