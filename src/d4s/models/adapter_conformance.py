"""Conformance suite of adapters: what reading, editing and measuring rely on in any network.

Each row of `d4s.models.adapters` is tested with `check_adapter` on a tiny model; `d4s doctor` tests a folder. An adapter
found by inspection is used if it passes `TRACED_CHECKS`.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, cast

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import GenerationConfig

from d4s.errors import D4SError
from d4s.models.language_model import LAYOUTS, LanguageModel
from d4s.models.restart import restart
from d4s.models.tokens import encode, encode_pair, subject_last_index
from d4s.models.trace import Trace, trace
from d4s.models.views import LiveModel

SUBJECTS = ("Ada Moss", "Quito", "Ben Reed")
TEMPLATES = ("{} lives in the city of", "The home town of {} is", "The job of {}")
TARGETS = ("Paris", "Oslo and Rome", "a baker")
NEW_TOKENS = 6
ROUNDING = {torch.float64: 1e-6, torch.float32: 1e-4}  # GPT-J's rotary tables stay float32 in every precision
COARSE = 0.1


class AdapterNotConformant(AssertionError):
    """An adapter that does not fit its network; the message names every failed check."""


@dataclass(frozen=True)
class AdapterCase:
    """A model with test prompts: each subject in each template, at the start, in the middle and at the end."""

    model: LanguageModel
    subjects: Sequence[str] = SUBJECTS
    templates: Sequence[str] = TEMPLATES
    generator: torch.Generator = field(default_factory=lambda: torch.Generator().manual_seed(0))

    @property
    def layers(self) -> list[int]:
        """The first, the middle and the last layer."""
        last = self.model.n_layers - 1
        return sorted({0, last // 2, last})

    @property
    def prompts(self) -> list[str]:
        """Prompts of different lengths."""
        return [template.replace("{}", subject) for template, subject in zip(self.templates, self.subjects, strict=True)]

    @cached_property
    def ids(self) -> Int[Tensor, "1 t"]:
        """The first prompt's tokens, twice over."""
        ids = encode(self.model, f"{self.prompts[0]} {self.prompts[1]}")
        return torch.tensor([ids], device=self.model.device)

    def random(self, like: Tensor) -> Tensor:
        """Normal random numbers with the shape and standard deviation of a tensor."""
        drawn = torch.randn(like.shape, generator=self.generator, dtype=torch.float32)
        return (drawn * float(like.float().std())).to(like.device, like.dtype)

    def run_traced(self, modules: Mapping[Any, nn.Module]) -> tuple[Trace[Any], Tensor]:
        """Inputs and outputs of modules on the tokens, and the network's logits."""
        with torch.no_grad(), trace(modules) as found:
            logits = self.model.network(input_ids=self.ids, use_cache=False).logits
        return found, logits

    def difference(self, found: Tensor, expected: Tensor) -> str:
        """The difference of two tensors relative to the largest value, as text; empty within rounding."""
        if found.shape != expected.shape:
            return f"has shape {tuple(found.shape)}, expected {tuple(expected.shape)}"
        found, expected = found.double().cpu(), expected.double().cpu()
        gap = float((found - expected).abs().max()) / max(float(expected.abs().max()), 1e-12)
        return "" if gap <= ROUNDING.get(self.model.dtype, COARSE) else f"differs by {gap:.1e} of the largest value"


Check = Callable[[AdapterCase], Iterator[str]]


@dataclass(frozen=True, slots=True)
class CheckResult:
    """The failures that one check found; empty if it passed."""

    check: str
    failures: tuple[str, ...]


def check_results(case: AdapterCase, checks: Sequence[Check] | None = None) -> list[CheckResult]:
    """The result of every check on a model; a check that raises counts as failed with its error."""
    return [CheckResult(check.__name__.strip("_").replace("_", " "), tuple(_guarded(check, case))) for check in checks or CHECKS]


def check_adapter(make_model: Callable[[], LanguageModel]) -> None:
    """Test an adapter on a model in float32 or float64 with a tokenizer of its kind.

    Raises:
        AdapterNotConformant: naming every failed check.
    """
    try:
        case = AdapterCase(make_model())
    except (D4SError, AttributeError, TypeError) as error:
        raise AdapterNotConformant(f"the adapter does not fit its network: no model can be made: {error}") from error
    failures = [f"{result.check}: {why}" for result in check_results(case) for why in result.failures]
    if failures:
        raise AdapterNotConformant("the adapter does not fit its network:\n" + "\n".join(f"  {line}" for line in failures))


def _guarded(check: Check, case: AdapterCase) -> Iterator[str]:
    """The failures of a check, or the error that it raised: a wrong module name can fail in any way."""
    try:
        yield from check(case)
    except Exception as error:  # any kind of error counts as the check's failure, so that all checks run
        yield f"ends with {type(error).__name__}: {error}".split("\n")[0][:300]


# --- what one traced pass shows ---------------------------------------------------------------------------------------


def _weights_have_their_modules_layout(case: AdapterCase) -> Iterator[str]:
    model, config = case.model, case.model.network.config.get_text_config()
    if model.n_layers != config.num_hidden_layers:
        yield f"{model.adapter.blocks} holds {model.n_layers} blocks, the configuration says {config.num_hidden_layers}"
    for layer in range(model.n_layers):
        module, weight = model.mlp_out(layer), model.weight(layer)
        if LAYOUTS.get(type(module)) != model.adapter.weight_layout:
            yield f"layer {layer}: {type(module).__name__} does not store {model.adapter.weight_layout}"
        if weight.shape[0] != config.hidden_size:
            yield f"layer {layer}: the weight writes {weight.shape[0]} numbers, the residual stream has {config.hidden_size}"


def _weights_map_keys_to_what_is_written(case: AdapterCase) -> Iterator[str]:
    model = case.model
    found, _ = case.run_traced({layer: model.mlp_out(layer) for layer in range(model.n_layers)})
    for layer in range(model.n_layers):
        bias = getattr(model.mlp_out(layer), "bias", None)
        expected = found.inputs[layer] @ model.weight(layer).mT + (0 if bias is None else bias)
        if gap := case.difference(found.outputs[layer], expected):
            yield f"layer {layer}: key @ weight.T {gap}"


def _the_mlp_works_token_by_token(case: AdapterCase) -> Iterator[str]:
    model = case.model
    for layer in case.layers:
        mlp = model.mlp(layer)
        found, _ = case.run_traced({"mlp": mlp, "out": model.mlp_out(layer)})
        if gap := case.difference(found.outputs["mlp"], found.outputs["out"]):
            yield f"layer {layer}: the output of {model.adapter.mlp_out} is not that of {model.adapter.mlp}: it {gap}"
        with torch.no_grad(), trace({"out": model.mlp_out(layer)}) as again:
            mlp(found.inputs["mlp"].flip(1))
        if gap := case.difference(again.inputs["out"].flip(1), found.inputs["out"]):
            yield f"layer {layer}: the key of a token depends on other tokens: with tokens in another order it {gap}"


def _what_the_mlp_writes_is_added_to_the_block(case: AdapterCase) -> Iterator[str]:
    model = case.model
    for layer in case.layers:
        modules = {"block": model.block(layer), "out": model.mlp_out(layer)}
        before, _ = case.run_traced(modules)
        with model.patched({layer: case.random(model.weight(layer))}):
            after, _ = case.run_traced(modules)
        if gap := case.difference(after.inputs["out"], before.inputs["out"]):
            yield f"layer {layer}: an edit moves the layer's own key: it {gap}"
        norm = model.post_norm(layer) or nn.Identity()
        with torch.no_grad():
            expected = norm(after.outputs["out"]) - norm(before.outputs["out"])
        if gap := case.difference(after.outputs["block"] - before.outputs["block"], expected):
            passed = f" through {model.adapter.post_norm}" if model.adapter.post_norm else ""
            yield f"layer {layer}: the change of the block's output is not what the edit adds{passed}: it {gap}"


def _final_norm_and_unembedding_give_the_logits(case: AdapterCase) -> Iterator[str]:
    model = case.model
    found, logits = case.run_traced({"last": model.block(model.n_layers - 1), "norm": model.final_norm})
    if gap := case.difference(found.inputs["norm"], found.outputs["last"]):
        yield f"{model.adapter.final_norm} does not read what the last block writes: its input {gap}"
    with torch.no_grad():
        if gap := case.difference(model.unembed(model.final_norm(found.outputs["last"])), logits):
            yield f"{model.adapter.unembed} after {model.adapter.final_norm} does not give the network's logits: it {gap}"


# --- texts and positions ----------------------------------------------------------------------------------------------


def _keys_stand_at_the_subjects_last_token(case: AdapterCase) -> Iterator[str]:
    model, layer = case.model, case.layers[-1]
    for template in case.templates:
        for subject in case.subjects:
            prompt = template.replace("{}", subject)
            ids, position = encode(model, prompt), subject_last_index(model, prompt, subject, template)
            prefix = encode(model, template[: template.index("{}")] + subject)
            if ids[: position + 1] != prefix:
                yield f"{prompt!r}: the tokens up to position {position} are not the {len(prefix)} of the text up to the subject's end"
            with trace({"out": model.mlp_out(layer)}) as whole:
                model.network(input_ids=torch.tensor([ids], device=model.device), use_cache=False)
            with trace({"out": model.mlp_out(layer)}) as part:
                model.network(input_ids=torch.tensor([ids[: position + 1]], device=model.device), use_cache=False)
            if gap := case.difference(part.inputs["out"][0, -1], whole.inputs["out"][0, position]):
                yield f"{prompt!r}: the key depends on what follows the subject: it {gap}"


# --- editing ----------------------------------------------------------------------------------------------------------


@torch.no_grad()
def _a_restarted_pass_is_the_whole_pass(case: AdapterCase) -> Iterator[str]:
    model = case.model
    texts = [encode(model, prompt) for prompt in case.prompts]
    width, device = max(map(len, texts)), model.device
    ids = torch.tensor([[*text, *[text[-1]] * (width - len(text))] for text in texts], device=device)
    places = zip(case.prompts, case.subjects, case.templates, strict=True)
    subject_last = torch.tensor(
        [subject_last_index(model, prompt, subject, template) for prompt, subject, template in places], device=device
    )
    lengths, last = torch.tensor([len(text) for text in texts], device=device), model.block(model.n_layers - 1)
    for layer in case.layers:
        again, _ = restart(model, ids, subject_last, lengths, layer)
        with trace({"last": last, "here": model.block(layer)}) as plain:
            model.network(input_ids=ids, use_cache=False)
        shift = case.random(plain.outputs["here"][:, 0])
        with _shifted(model.block(layer), subject_last, shift), trace({"last": last}) as whole:
            model.network(input_ids=ids, use_cache=False)
        restarted = again.run(shift[:, None])
        for row, (start, length) in enumerate(zip(subject_last.tolist(), lengths.tolist(), strict=True)):
            if gap := case.difference(restarted[row, : length - start], whole.outputs["last"][row, start:length]):
                yield f"after layer {layer}, prompt {case.prompts[row]!r}: the restarted pass {gap}"


@contextmanager
def _shifted(block: nn.Module, subject_last: Int[Tensor, " n"], shift: Float[Tensor, "n d"]) -> Iterator[None]:
    """Add a vector to a block's output at each row's last subject token."""

    def add(_module: nn.Module, _args: Any, output: Any) -> Any:
        hidden = (output if isinstance(output, Tensor) else output[0]).clone()
        hidden[torch.arange(len(subject_last), device=subject_last.device), subject_last] += shift
        return hidden if isinstance(output, Tensor) else (hidden, *output[1:])

    handle = block.register_forward_hook(add)
    try:
        yield
    finally:
        handle.remove()


def _edits_are_taken_back_bit_for_bit(case: AdapterCase) -> Iterator[str]:
    model = case.model
    originals = {layer: model.weight(layer).clone() for layer in case.layers}
    _, before = case.run_traced({})
    with model.patched({layer: case.random(weight) for layer, weight in originals.items()}):
        _, within = case.run_traced({})
    _, after = case.run_traced({})
    if torch.equal(within, before):
        yield "an edit leaves the logits as they were"
    if changed := [layer for layer, weight in originals.items() if not torch.equal(model.weight(layer), weight)]:
        yield f"layers {changed} are left changed"
    if not torch.equal(after, before):
        yield "the logits after an edit are not those before it"


# --- measuring --------------------------------------------------------------------------------------------------------


@torch.no_grad()
def _logits_of_views_are_the_networks_own(case: AdapterCase) -> Iterator[str]:
    model, scores = case.model, LiveModel(case.model).score(case.prompts, TARGETS)
    for row, (prompt, target) in enumerate(zip(case.prompts, TARGETS, strict=True)):
        head, tail = encode_pair(model, prompt, target)
        logits = model.network(input_ids=torch.tensor([head + tail], device=model.device), use_cache=False).logits
        if gap := _gap(case, scores.nll[row], logits[0, len(head) - 1 : -1], tail):
            yield f"{prompt!r}: the score {gap}"


@torch.no_grad()
def _batched_scores_are_single_scores(case: AdapterCase) -> Iterator[str]:
    view = LiveModel(case.model)
    whole = view.score(case.prompts, TARGETS)
    for row, (prompt, target) in enumerate(zip(case.prompts, TARGETS, strict=True)):
        one = view.score([prompt], [target])
        count = int(one.mask.sum())
        if gap := case.difference(whole.nll[row, :count], one.nll[0, :count]):
            yield f"{prompt!r}: in a batch it {gap}"


@torch.no_grad()
def _padding_on_the_left_scores_as_on_the_right(case: AdapterCase) -> Iterator[str]:
    model, scores = case.model, LiveModel(case.model).score(case.prompts, TARGETS)
    pairs = [encode_pair(model, prompt, target) for prompt, target in zip(case.prompts, TARGETS, strict=True)]
    width = max(len(head) + len(tail) for head, tail in pairs)
    blank = [width - len(head) - len(tail) for head, tail in pairs]
    ids = torch.tensor([[0] * count + head + tail for count, (head, tail) in zip(blank, pairs, strict=True)], device=model.device)
    seen = torch.arange(width, device=model.device) >= torch.tensor(blank, device=model.device)[:, None]
    places = (seen.long().cumsum(1) - 1).clamp(min=0)
    logits = model.network(input_ids=ids, attention_mask=seen.long(), position_ids=places, use_cache=False).logits
    for row, (_, tail) in enumerate(pairs):
        if gap := _gap(case, scores.nll[row], logits[row, -len(tail) - 1 : -1], tail):
            yield f"{case.prompts[row]!r}: against the network's with padding on the left, the score {gap}"


def _gap(case: AdapterCase, nll: Float[Tensor, " columns"], logits: Float[Tensor, "t vocab"], tail: Sequence[int]) -> str:
    """The difference of a view's scores of the target tokens and the network's logits, as text; empty within rounding."""
    likely = logits.float().cpu().log_softmax(-1)
    return case.difference(nll[: len(tail)], -likely[range(len(tail)), list(tail)])


@torch.no_grad()
def _generation_is_greedy_generation(case: AdapterCase) -> Iterator[str]:
    model, network = case.model, cast(Any, case.model.network)
    ends = [token for token in (model.tokenizer.eos_token_id,) if isinstance(token, int)]
    configured = getattr(network.generation_config, "eos_token_id", None)
    ends += configured if isinstance(configured, list) else [configured] if isinstance(configured, int) else []
    greedy = GenerationConfig(
        do_sample=False, num_beams=1, max_new_tokens=NEW_TOKENS, repetition_penalty=1.0, eos_token_id=ends or None, pad_token_id=0
    )
    for prompt, found in zip(case.prompts, LiveModel(model).generate(case.prompts, NEW_TOKENS), strict=True):
        ids = torch.tensor([encode(model, prompt)], device=model.device)
        row = network.generate(input_ids=ids, attention_mask=torch.ones_like(ids), generation_config=greedy)[0, ids.shape[1] :].tolist()
        kept = row[: next((index for index, token in enumerate(row) if token in ends), len(row))]
        expected = model.tokenizer.decode(kept, skip_special_tokens=True)
        if found != expected:
            yield f"{prompt!r}: the view says {found!r}, the network {expected!r}"


TRACED_CHECKS: tuple[Check, ...] = (
    _weights_have_their_modules_layout,
    _weights_map_keys_to_what_is_written,
    _the_mlp_works_token_by_token,
    _what_the_mlp_writes_is_added_to_the_block,
    _final_norm_and_unembedding_give_the_logits,
)
CHECKS: tuple[Check, ...] = (
    _edits_are_taken_back_bit_for_bit,  # run first: later checks edit too, and an edit that only rounds does so once
    *TRACED_CHECKS,
    _keys_stand_at_the_subjects_last_token,
    _a_restarted_pass_is_the_whole_pass,
    _logits_of_views_are_the_networks_own,
    _batched_scores_are_single_scores,
    _padding_on_the_left_scores_as_on_the_right,
    _generation_is_greedy_generation,
)
