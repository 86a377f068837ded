"""What every writer of questions keeps to, as a check that its tests call: `check_writer(writer, items)`."""

from collections.abc import Iterator, Sequence

from d4s.config import FORMS, Form
from d4s.questions.draft_checks import draft_issues
from d4s.questions.question_items import Item
from d4s.questions.writers import TemplateWriter, Writer


def check_writer(writer: Writer, items: Sequence[Item]) -> None:
    """Check that a writer does what later stages rely on, over items whose template drafts are valid.

    Drafts come one per item and in order, are valid, keep the targets of the item, name their source, and depend on
    nothing but the item: neither on the order of items nor on the other items.

    Raises:
        ValueError: listing everything that fails.
    """
    complaints = [f"{form}: {complaint}" for form in FORMS for complaint in _writer_complaints(writer, items, form)]
    if complaints:
        raise ValueError(f"the writer breaks {len(complaints)} promise(s):\n" + "\n".join(f"  {complaint}" for complaint in complaints))


def _writer_complaints(writer: Writer, items: Sequence[Item], form: Form) -> Iterator[str]:
    drafts = writer.write(items, form)
    if len(drafts) != len(items):
        yield f"{len(drafts)} drafts of {len(items)} items"
        return
    if writer.write(items, form) != drafts:
        yield "writing twice gives different drafts"
    if writer.write(items[::-2], form) != drafts[::-2]:
        yield "drafts depend on which items are asked for, or on their order"
    for item, draft, plain in zip(items, drafts, TemplateWriter(0).write(items, form), strict=True):
        yield from (f"{item.event_id}: {issue}" for issue in draft_issues(item, draft))
        if (draft.form, draft.target_true, draft.target_new) != (form, plain.target_true, plain.target_new):
            yield f"{item.event_id}: form or targets are not the item's"
        if not draft.writer or not draft.prompt_version or (draft.writer == writer.name != "template" and not draft.response_sha256):
            yield f"{item.event_id}: it does not say who wrote it, by which prompts, from which answer"
        if bool(draft.fell_back) != (draft.writer == "template" != writer.name):
            yield f"{item.event_id}: it does not say why a template took the place of an answer"
