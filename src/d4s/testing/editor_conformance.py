"""The conformance suite of editors: what every method must keep to, whatever it does. Tests call `check_editor`.

A new method gets a case here, which checks whether runs, resuming and undoing may rely on it. Memories change
no weights, so they are held to their answers; the requests of their case must lie apart, so that no entry answers for two.

Terms and symbols: docs/notation.md.
"""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import safetensors.torch
import torch
from torch import Tensor

from d4s.editors.edit_requests import EditRequest
from d4s.editors.protocol import Editor, EditSelection, EditStatus, NotRemovable, Prepared, State, Targets
from d4s.editors.states import RecordState
from d4s.models.edited_model import EditedModel
from d4s.models.language_model import LanguageModel
from d4s.models.tokens import encode_all
from d4s.models.views import LiveModel

Bits = Mapping[str, Tensor]
ROUNDING = 1e-4
WRITTEN = 5  # tokens that a memory is asked to write


class EditorNotConformant(AssertionError):
    """An editor that breaks the contract; the message names every part."""


class Interrupted(Exception):
    """Raised on purpose while weights are edited."""


@dataclass(frozen=True)
class EditorCase:
    """An editor on a model with everything that it needs; `targets` are those at the original weights."""

    make_editor: Callable[[], Editor]
    make_model: Callable[[], LanguageModel]
    prepared: Prepared
    requests: Sequence[EditRequest]
    targets: Targets | None = None
    batch: int = 1

    def run(self, count: int, begin: State | None = None, done: int = 0, model: LanguageModel | None = None) -> State:
        """The state after the first `count` requests, of which `done` are in the state to begin with."""
        model, editor = model or self.make_model(), self.make_editor()
        start = editor.start(model, self.prepared) if begin is None else begin
        with editor.editing(model, self.prepared, start) as session:
            for first in range(done, count, self.batch):
                last = first + self.batch
                session.step(self.requests[first:last], None if self.targets is None else self.targets[first:last])
            return session.state()

    def weights(self, state: State) -> Bits:
        """All parameters of the model as a state describes it."""
        model = self.make_model()
        with self.make_editor().edited(model, self.prepared, state):
            return parameters(model)

    def answers(self, state: State) -> Bits:
        """What the model as a state describes it makes of each request's prompt: losses, tokens and text of one batch."""
        model = self.make_model()
        with self.make_editor().edited(model, self.prepared, state) as view:
            return replies(view, self.requests)

    @property
    def half(self) -> int:
        """About half of the requests, in whole batches."""
        return len(self.requests) // 2 // self.batch * self.batch

    @cached_property
    def halfway(self) -> State:
        """The state after half of the requests."""
        return self.run(self.half)

    @cached_property
    def straight(self) -> State:
        """The state after all requests, edited without a stop."""
        return self.run(len(self.requests))

    @cached_property
    def before(self) -> Bits:
        """All parameters of the unedited model."""
        return parameters(self.make_model())


def check_editor(case: EditorCase) -> None:
    """Hold an editor to the contract.

    Raises:
        EditorNotConformant: naming every part that it breaks.
    """
    broken = [f"{check.__name__.strip('_').replace('_', ' ')}: {why}" for check in CHECKS for why in check(case)]
    if broken:
        raise EditorNotConformant("the editor breaks the contract:\n" + "\n".join(f"  {line}" for line in broken))


def parameters(model: LanguageModel) -> Bits:
    """Copies of all parameters by name."""
    return {name: parameter.detach().clone() for name, parameter in model.network.named_parameters()}


def replies(view: EditedModel, requests: Sequence[EditRequest]) -> Bits:
    """Per request the losses of its target's tokens, the likeliest tokens in their places, and the bytes of what is written."""
    prompts = [request.prompt for request in requests]
    scores, texts = view.score(prompts, [request.target for request in requests]), view.generate(prompts, WRITTEN)
    found: dict[str, Tensor] = {}
    for number, text in enumerate(texts):
        of_target = scores.mask[number]
        found[f"{number}.nll"] = scores.nll[number, of_target]
        found[f"{number}.tokens"] = scores.predicted[number, of_target]
        found[f"{number}.text"] = torch.tensor([*text.encode(), 0])
    return found


def tensors_of(state: State) -> Bits:
    """Every tensor of a state by a name of its own."""
    records = {f"{step}.{name}": tensor for step, record in enumerate(state.records) for name, tensor in record.items()}
    return {f"row.{name}": tensor for name, tensor in records.items()} | {f"dense.{name}": tensor for name, tensor in state.dense.items()}


def differing(found: Bits, expected: Bits) -> list[str]:
    """Names that are missing on one side or whose tensors differ in shape, precision or any bit."""
    both = found.keys() & expected.keys()
    return sorted(
        (found.keys() ^ expected.keys())
        | {name for name in both if found[name].dtype != expected[name].dtype or not torch.equal(found[name], expected[name])}
    )


def distance(found: Bits, expected: Bits) -> float:
    """The largest difference between equal names, relative to the largest value."""
    scale = max(float(tensor.abs().max()) for tensor in expected.values())
    return max(float((found[name].double() - expected[name].double()).abs().max()) for name in expected) / scale


def _no_edit_changes_nothing(case: EditorCase) -> Iterator[str]:
    model = case.make_model()
    if changed := differing(case.weights(case.make_editor().start(model, case.prepared)), case.before):
        yield f"the state before any edit changes {changed}"


def _original_bits_come_back(case: EditorCase) -> Iterator[str]:
    model, editor = case.make_model(), case.make_editor()
    state = case.run(case.half, model=model)
    if changed := differing(parameters(model), case.before):
        yield f"a session leaves {changed} changed"
    for enter in (editor.editing, editor.edited):
        try:
            with enter(model, case.prepared, state):
                raise Interrupted
        except Interrupted:
            pass
        if changed := differing(parameters(model), case.before):
            yield f"an error within `{enter.__name__}` leaves {changed} changed"
    if any(parameter.requires_grad for parameter in model.network.parameters()):
        yield "parameters are left with gradients switched on"


def _runs_repeat(case: EditorCase) -> Iterator[str]:
    if changed := differing(tensors_of(case.run(case.half)), tensors_of(case.halfway)):
        yield f"two equal runs differ in {changed}"


def _saved_states_resume_to_the_same_bits(case: EditorCase) -> Iterator[str]:
    records = [safetensors.torch.load(safetensors.torch.save(dict(record))) for record in case.halfway.records]
    dense = safetensors.torch.load(safetensors.torch.save(dict(case.halfway.dense)))
    restored = case.make_editor().restore(records, dense)
    if changed := differing(tensors_of(restored), tensors_of(case.halfway)):
        yield f"saving loses {changed}"
    kept = {name: tensor.clone() for name, tensor in tensors_of(restored).items()}
    resumed = case.run(len(case.requests), restored, case.half)
    if changed := differing(tensors_of(restored), kept):
        yield f"later steps change {changed} of the state that they began with"
    if changed := differing(tensors_of(resumed), tensors_of(case.straight)):
        yield f"a resumed run differs from a straight one in {changed}"
    if changed := differing(case.weights(resumed), case.weights(case.straight)):
        yield f"weights of a resumed run differ in {changed}"


def _the_live_model_is_the_edited_model(case: EditorCase) -> Iterator[str]:
    model, editor = case.make_model(), case.make_editor()
    with editor.editing(model, case.prepared, case.halfway) as session:
        if session.live() is None:
            return
        live = parameters(model)
    if (gap := distance(live, case.weights(case.halfway))) > ROUNDING:
        yield f"they differ by {gap:.1e}"


def _the_kind_of_state_tells_the_truth(case: EditorCase) -> Iterator[str]:
    editor, state = case.make_editor(), case.straight
    if state.kind != editor.kind:
        yield f"the editor says {editor.kind!r}, its states {state.kind!r}"
    if state.kind == "dense":
        if state.records or not state.dense:
            yield "a dense state must hold tensors and no rows"
        return
    if state.dense or len(state.records) * case.batch != len(case.requests):
        yield (
            f"{len(case.requests)} requests in batches of {case.batch} gave {len(state.records)} records "
            f"and {len(state.dense)} dense tensors"
        )
        return
    whole = case.weights(state)
    if state.kind == "refit" and (gap := distance(case.weights(editor.restore(list(state.records)[::-1], {})), whole)) > ROUNDING:
        yield f"a refit state must not depend on the order of its rows, but does by {gap:.1e}"
    if state.kind == "additive":
        middle = len(state.records) // 2
        first, last = (case.weights(editor.restore(records, {})) for records in (state.records[:middle], state.records[middle:]))
        added = {name: first[name].double() + last[name].double() - before.double() for name, before in case.before.items()}
        if (gap := distance(added, whole)) > ROUNDING:
            yield f"the changes of an additive state's rows must add up, but miss by {gap:.1e}"


def _what_can_be_removed_follows_from_the_kind_of_state(case: EditorCase) -> Iterator[str]:
    batches = [range(first, first + case.batch) for first in range(0, len(case.requests), case.batch)]
    is_dense = case.make_editor().kind == "dense"
    if reason := _refusal(case, ()):
        yield f"a selection that changes nothing is refused: {reason}"
    for removed in (range(len(case.requests)), *batches):
        reason = _refusal(case, removed)
        if is_dense and not reason:
            yield f"requests {[*removed]} can be removed from a dense state"
        elif reason and not is_dense:
            yield f"requests {[*removed]} cannot be removed, though each record is there as a whole: {reason}"
    if case.batch > 1 and not _refusal(case, batches[0][1:]):
        yield f"requests {[*batches[0][1:]]} can be removed without the rest of their record"


def _refusal(case: EditorCase, removed: Collection[int]) -> str:
    """Why some requests cannot be removed from the state after all; empty where they can."""
    statuses = [
        EditStatus(number, request.fact_id, was_active=True, is_active=number not in removed)
        for number, request in enumerate(case.requests)
    ]
    edits = [statuses[first : first + case.batch] for first in range(0, len(statuses), case.batch)]
    try:
        case.make_editor().check_removable(EditSelection(case.straight.records, edits))
    except NotRemovable as reason:
        return str(reason)
    return ""


def _a_memory_answers_at_its_own_prompts_and_nowhere_else(case: EditorCase) -> Iterator[str]:
    editor, state = case.make_editor(), case.straight
    if editor.kind not in {"codebook", "memory"}:
        return
    untouched, whole = replies(LiveModel(case.make_model()), case.requests), case.answers(state)
    if changed := apart(case.answers(editor.restore((), {})), untouched):
        yield f"the empty memory changes {changed}"
    if silent := [number for number in range(len(case.requests)) if not apart(_of(whole, number), _of(untouched, number))]:
        yield f"requests {silent} are answered as if they had not been edited"
    for step in range(len(state.records)):
        found = case.answers(RecordState(editor.kind, state.records).without({step}))
        own = range(step * case.batch, (step + 1) * case.batch)
        expected = {name: (untouched if int(name.split(".")[0]) in own else whole)[name] for name in whole}
        if changed := apart(found, expected):
            yield f"undoing step {step} leaves or loses answers: {changed}"


def _a_memory_answers_alike_in_any_batch(case: EditorCase) -> Iterator[str]:
    if not _is_memory(case):
        return
    model, editor, together = case.make_model(), case.make_editor(), case.answers(case.straight)
    with editor.edited(model, case.prepared, case.straight) as view:
        for number, request in enumerate(case.requests):
            alone = {name.replace("0.", f"{number}.", 1): value for name, value in replies(view, [request]).items()}
            if changed := apart(alone, _of(together, number)):
                yield f"a prompt asked alone changes {changed}"
    with editor.editing(model, case.prepared, case.straight) as session:
        live = session.live()
        if live is not None and (changed := apart(replies(live, case.requests), together)):
            yield f"the live model answers otherwise: {changed}"


def _a_memory_that_is_empty_answers_as_the_model(case: EditorCase) -> Iterator[str]:
    if not _is_memory(case):
        return
    model, editor = case.make_model(), case.make_editor()
    plain, text = LiveModel(model), _ids(model, case.requests)
    with editor.edited(model, case.prepared, editor.start(model, case.prepared)) as view:
        if changed := differing(replies(view, case.requests), replies(plain, case.requests)):
            yield f"the memory before any edit changes {changed}"
        if not torch.equal(view.text_nll(text), plain.text_nll(text)):
            yield "the memory before any edit changes free text"


def _a_memory_writes_what_it_scores(case: EditorCase) -> Iterator[str]:
    if not _is_memory(case):
        return
    model, editor = case.make_model(), case.make_editor()
    prompts = [request.prompt for request in case.requests]
    with editor.edited(model, case.prepared, case.straight) as view:
        likeliest = view.score(prompts, [request.target for request in case.requests]).predicted[:, :1]
        if view.generate(prompts, 1) != model.tokenizer.batch_decode(likeliest, skip_special_tokens=True):
            yield "the first token that is written is not the likeliest one, teacher-forced"


def _is_memory(case: EditorCase) -> bool:
    """Whether the editor answers beside the model, no weight of which changes."""
    with case.make_editor().edited(case.make_model(), case.prepared, case.straight) as view:
        return view.weight_changes() is None


def _ids(model: LanguageModel, requests: Sequence[EditRequest]) -> list[list[int]]:
    """Prompts as free text."""
    return encode_all(model, [request.prompt for request in requests])


def apart(found: Bits, expected: Bits) -> list[str]:
    """Names under which two sets of replies differ by more than rounding."""
    return sorted(
        name
        for name in expected
        if found[name].shape != expected[name].shape or not torch.allclose(found[name].double(), expected[name].double(), rtol=ROUNDING)
    )


def _of(answers: Bits, number: int) -> Bits:
    return {name: value for name, value in answers.items() if name.startswith(f"{number}.")}


CHECKS: tuple[Callable[[EditorCase], Iterator[str]], ...] = (
    _no_edit_changes_nothing,
    _original_bits_come_back,
    _runs_repeat,
    _saved_states_resume_to_the_same_bits,
    _the_live_model_is_the_edited_model,
    _the_kind_of_state_tells_the_truth,
    _what_can_be_removed_follows_from_the_kind_of_state,
    _a_memory_answers_at_its_own_prompts_and_nowhere_else,
    _a_memory_answers_alike_in_any_batch,
    _a_memory_that_is_empty_answers_as_the_model,
    _a_memory_writes_what_it_scores,
)
