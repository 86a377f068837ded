"""Audits data sets of questions from their Parquet files alone, with nothing of the package: `python -m tools.audit_questions FOLDER...`.

Each folder holds facts.parquet and provenance.parquet of one form. Every finding is printed; the exit status is 1 if there are any.
"""

import re
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

Row = dict[str, Any]
LETTERS = "abcd"
TOLERANCE = 0.03
MOST = 400
OPTIONS = re.compile(r"\ba\) (.+?) b\) (.+?) c\) (.+?) d\) (.+)[?:.] [^?:.]+$")
CUE = re.compile(r"\b(answer|choice|likely) is$")
UNSEEN = re.compile(r"[\x00-\x1f\x7f-\x9f\u200b-\u200f\u2028\u2029\ufeff]")
MARKUP = re.compile(r"</?\w+[^>]*>|\*\*|```|\]\(|https?://")


def audit(folder: Path) -> list[str]:
    """Everything that is wrong with the data set in a folder."""
    facts: list[Row] = pq.read_table(folder / "facts.parquet").to_pylist()
    sources: dict[str, Row] = {row["fact_id"]: row for row in pq.read_table(folder / "provenance.parquet").to_pylist()}
    found = [*_alone(facts, sources), *_repeated(facts), *_balance(facts)]
    for fact in facts:
        found += [f"{fact['fact_id']}: {problem}" for problem in _fact(fact, sources.get(fact["fact_id"]))]
    return [f"{folder.name}: {finding}" for finding in found]


def _alone(facts: Sequence[Row], sources: dict[str, Row]) -> Iterator[str]:
    ids = {fact["fact_id"] for fact in facts}
    for gone in sorted(set(sources) ^ ids):
        yield f"{gone}: stands in only one of facts and provenance"


def _repeated(facts: Sequence[Row]) -> Iterator[str]:
    for what, values in (("id", [f["fact_id"] for f in facts]), ("question", [_plain(_prompt(f, f["template"])) for f in facts])):
        for value, count in Counter(values).items():
            if count > 1:
                yield f"the {what} {value!r} occurs {count} times"


def _balance(facts: Sequence[Row]) -> Iterator[str]:
    """Shares of labels, and of places of the right option; on few facts a few may stand out."""
    labels = Counter(fact["target_true"] for fact in facts)
    for legal in (("yes", "no"), tuple(LETTERS)):
        if facts and set(labels) <= set(legal):
            for label in legal:
                share, wanted = labels[label] / len(facts), 1 / len(legal)
                if abs(share - wanted) > TOLERANCE + 2 / len(facts):
                    yield f"the answer {label!r} is right in {share:.1%} of the facts, expected {wanted:.0%} ± {TOLERANCE:.0%}"


def _fact(fact: Row, source: Row | None) -> Iterator[str]:
    templates = [fact["template"], *fact["wordings"]]
    prompts = [*(_prompt(fact, template) for template in templates), *fact["paraphrases"]]
    for template in templates:
        if template.count("{}") != 1:
            yield f"{template!r} holds {{}} {template.count('{}')} times, expected once"
    if len({_plain(prompt) for prompt in prompts}) != len(prompts):
        yield "two wordings are the same"
    if len(fact["paraphrases"]) != 2:
        yield f"{len(fact['paraphrases'])} paraphrases, expected 2"
    for prompt in prompts:
        yield from _prompt_problems(fact, prompt)
    yield from _targets(fact)
    if source:
        yield from _origin(fact, source, prompts)


def _prompt_problems(fact: Row, prompt: str) -> Iterator[str]:
    if prompt.count(fact["subject"]) != 1:
        yield f"{prompt!r} names the subject {prompt.count(fact['subject'])} times, expected once"
    if UNSEEN.search(prompt) or MARKUP.search(prompt):
        yield f"{prompt!r} holds control characters or markup"
    if not prompt.strip() or len(prompt) > MOST:
        yield f"a wording has {len(prompt)} characters, expected 1 to {MOST}"


def _targets(fact: Row) -> Iterator[str]:
    form, true, new = fact["dataset"].removeprefix("mqd_"), fact["target_true"], fact["target_new"]
    if true == new or new in fact["target_true_aliases"]:
        yield f"the new target {new!r} is true already"
    legal = {"true_false": ("yes", "no"), "multiple_choice": tuple(LETTERS)}.get(form)
    for target in (true, new):
        if (legal and target not in legal) or (not legal and target in ("yes", "no", *LETTERS)) or not target.strip():
            yield f"the target {target!r} is no answer of the form {form}"


def _origin(fact: Row, source: Row, prompts: Sequence[str]) -> Iterator[str]:
    """Wordings held against the event that they come from."""
    form, tail, head = fact["dataset"].removeprefix("mqd_"), source["tail"], source["head"]
    if fact["subject"] != head:
        yield f"the subject {fact['subject']!r} is not the head {head!r} of its event"
    if bool(source["fell_back"]) and source["writer"] != "template":
        yield f"written by {source['writer']!r} although a template took its place"
    for prompt in prompts:
        own = prompt.replace(head, " ", 1)
        if form == "true_false":
            if _contradicts(own, tail, fact["target_true"]):
                yield f"{prompt!r}: the answer {fact['target_true']!r} does not go with the true tail {tail!r}"
            if not CUE.search(prompt) or not re.search(r"\byes or no\b", prompt, re.IGNORECASE):
                yield f"{prompt!r} does not ask for yes or no as the next word"
        elif form == "multiple_choice":
            yield from _choices(fact, prompt, own, tail)
        elif any(f" {_plain(target)} " in f" {_plain(own)} " for target in (fact["target_true"], fact["target_new"])):
            yield f"{prompt!r} leaks an answer"


def _contradicts(own: str, tail: str, answer: str) -> bool:
    """Whether a statement's answer is wrong: yes without the true tail, or no although a clause ends in it."""
    if answer == "yes":
        return f" {_plain(tail)} " not in f" {_plain(own)} "
    return re.search(rf"(?<!\w){re.escape(tail)}(?=$|[?:.,;!])", own) is not None


def _choices(fact: Row, prompt: str, own: str, tail: str) -> Iterator[str]:
    if not CUE.search(prompt):
        yield f"{prompt!r} does not ask for a letter as the next word"
    listed = OPTIONS.search(own)
    if not listed:
        yield f"{prompt!r} does not list four options"
        return
    options = listed.groups()
    right = [letter for letter, option in zip(LETTERS, options, strict=True) if _plain(option) == _plain(tail)]
    if right != [fact["target_true"]]:
        yield f"{prompt!r}: the right option stands at {right}, the answer is {fact['target_true']!r}"
    if len({_plain(option) for option in options}) != len(options):
        yield f"{prompt!r} offers an option twice"
    if f" {_plain(tail)} " in f" {_plain(own.replace(listed.group(), ' '))} ":
        yield f"{prompt!r} leaks the answer"


def _prompt(fact: Row, template: str) -> str:
    return template.replace("{}", fact["subject"])


def _plain(text: str) -> str:
    return " ".join(re.findall(r"[\w']+", text.casefold()))


def main(arguments: Sequence[str]) -> int:
    """Print every finding; 1 if there are any, 2 if a folder is not one of questions."""
    if not arguments:
        print(__doc__)
        return 2
    findings: list[str] = []
    for name in arguments:
        try:
            found = audit(Path(name))
        except (OSError, KeyError, pa.ArrowException) as error:
            reason, *_ = str(error).splitlines() or [type(error).__name__]
            print(f"{name} holds no questions: {reason}")
            return 2
        print(f"{name}: {pq.read_metadata(Path(name) / 'facts.parquet').num_rows} facts, {len(found)} findings")
        findings += found
    print("\n".join(findings))
    return 1 if findings else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
