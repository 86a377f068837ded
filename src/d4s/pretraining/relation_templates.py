"""Templates of a relation found in the prompts of its records: pooled, cut out of paraphrases, and matched against other prompts."""

from collections import defaultdict
from collections.abc import Iterable


def template_in(paraphrase: str, subject: str, templates: Iterable[str]) -> str | None:
    """The template at the end of a paraphrase that has foreign text before it, or None where its beginning is uncertain.

    It begins where a known template of the relation begins, or else at the subject; what stands before must not end in a
    letter or digit, since the sentence would then have begun earlier.
    """
    before, found, after = paraphrase.rpartition(subject)
    if not found or not after.strip() or "\n" in after:
        return None
    heads = {template.partition("{}")[0] for template in templates} | {""}
    candidates = [head for head in heads if before.endswith(head) and _ends_sentence(before.removesuffix(head))]
    return max(candidates, key=len) + "{}" + after if candidates else None


def _ends_sentence(text: str) -> bool:
    return not text.rstrip()[-1:].isalnum()


def matches_template(wording: str, subject: str, prompt: str) -> bool:
    """Whether a prompt ends in this wording about this subject."""
    return prompt.endswith(wording.replace("{}", subject))


def parse_prompt(prompt: str, templates: Iterable[str]) -> tuple[str, str] | None:
    """The template with most text that a prompt fits and the subject it then speaks of, or None where none fits."""
    best: tuple[int, str, str] | None = None
    for template in templates:
        head, _, tail = template.partition("{}")
        subject = prompt.removeprefix(head).removesuffix(tail)
        if len(subject) == len(prompt) - len(head) - len(tail) and subject and subject == subject.strip():
            best = max(best or (0, "", ""), (len(head) + len(tail), template, subject))
    return best and best[1:]


def pool_templates(templates: Iterable[tuple[str, str]]) -> dict[str, tuple[str, ...]]:
    """Templates by relation, each once, in the order in which they came."""
    pools: dict[str, dict[str, None]] = defaultdict(dict)
    for relation, template in templates:
        pools[relation].setdefault(template)
    return {relation: tuple(pool) for relation, pool in pools.items()}
