"""Pitfalls of docs/pitfalls.md that no other test guards: what is known to go wrong elsewhere must be seen to go right here."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from d4s.editors.edit_requests import EditRequest
from d4s.editors.families import build
from d4s.editors.fine_tune_settings import FineTune
from d4s.editors.finetune import FineTuneEditor
from d4s.editors.moments import SecondMoment
from d4s.editors.parts.histories import Forget
from d4s.editors.parts.target_rule import TargetSettings
from d4s.editors.prompts import PromptSet, build_prompts
from d4s.editors.protocol import Prepared
from d4s.editors.target_optimisation import optimise
from d4s.errors import SettingsError
from d4s.models.language_model import LanguageModel
from d4s.models.loading import wrap
from d4s.models.tokens import encode
from d4s.models.views import LiveModel
from d4s.study_settings import load_study
from tests.cases import SMALL, case_for
from tests.cases import settings_for as small_settings
from tests.oracle import plain
from tests.oracle.bench import Bench, agree, settings_for
from tests.tiny import BOS, UNKNOWN, bpe_tokenizer, tiny_model, word_tokenizer

ROOT = Path(__file__).parents[2]
TARGET = TargetSettings(layer=1, steps=6, clamp=2.0)
TUNE = FineTune(objective="target", layer=1, steps=3, lr=1e-2)


def asking(template: str, subject: str, target: str) -> EditRequest:
    return EditRequest("000001:x", "x", 1, template.replace("{}", subject), subject, template, target, "Rome")


def follows_the_plain_loop(model: LanguageModel, batch: Sequence[PromptSet], settings: TargetSettings) -> None:
    found = optimise(model, batch, settings)
    for number, one in enumerate(batch):
        expected = plain.target_of(model, one, settings)
        assert expected["steps"] > 1 and expected["hidden_shift"].norm() > 0
        for name in ("hidden_shift", "hidden", "probability_after"):
            torch.testing.assert_close(getattr(found, name)[number], expected[name], rtol=1e-8, atol=1e-8)


# --- numerics ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["memit", "d4s"])
def test_small_steps_add_up_in_half_precision(name: str) -> None:
    """Pitfall 1: the sum is kept in float64 and rounded once, where adding step by step to the weights would lose most of it."""
    settings = settings_for(name, preservation={"weight": 3.0})
    case = case_for(settings, count=16, dtype=torch.bfloat16)
    model, editor = case.make_model(), case.make_editor()
    original = {layer: model.weight(layer).clone() for layer in settings.layers}
    naive, before = {layer: weight.clone() for layer, weight in original.items()}, dict.fromkeys(original, torch.zeros(16, 64).double())
    with editor.editing(model, case.prepared, editor.start(model, case.prepared)) as session:
        for step, request in enumerate(case.requests):
            session.step([request], None if case.targets is None else case.targets[step : step + 1])
            now = {layer: delta.clone() for layer, delta in session.deltas().items()}
            for layer, delta in now.items():
                naive[layer] += (delta - before[layer]).to(torch.bfloat16)
            before = now
        for layer, delta in before.items():
            assert delta.dtype == torch.float64
            exact = original[layer].double() + delta
            assert torch.equal(model.weight(layer), exact.to(torch.bfloat16))
            assert (naive[layer].double() - exact).norm() > 2 * (model.weight(layer).double() - exact).norm()


def test_updates_below_the_models_precision_add_up_in_fine_tuning() -> None:
    """Pitfall 1: Adam moves a float32 master; single updates are too small for the half-precision weight to notice."""
    settings = TUNE.model_copy(update={"steps": 60, "lr": 1e-5, "stop_loss": 0.0})
    model, editor = tiny_model(dtype=torch.bfloat16), FineTuneEditor(settings)
    original = model.weight(1).clone()
    lost = original + settings.lr * torch.ones_like(original)
    with editor.editing(model, Prepared(), editor.start(model, Prepared())) as session:
        session.step(plain.requests_of(1), None)
        master = session.state().dense["1.weight"]
        assert torch.equal(model.weight(1), master.to(torch.bfloat16))
    moved = (master - original.float()).abs()
    assert float(moved[lost == original].max()) > 20 * settings.lr


def test_reading_a_text_twice_changes_no_edit() -> None:
    """Pitfall 3: what is preserved is a mean over tokens, so a longer text of the same kind does not weigh more."""
    once, twice = (Bench(settings_for("memit"), 2) for _ in range(2))
    twice.moments = {layer: SecondMoment(2 * moment.sum_kk, 2 * moment.n_tokens, "text") for layer, moment in once.moments.items()}
    agree(twice.run(twice.texts), once.run(once.texts), 1e-12)


def test_reduced_products_are_switched_off_by_loading() -> None:
    """Pitfall 5: whoever allowed TF32 before, a model that is loaded multiplies in full float32."""
    model, before = tiny_model(), (torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32)
    try:
        torch.set_float32_matmul_precision("medium")
        torch.backends.cudnn.allow_tf32 = True
        wrap(model.network, model.tokenizer)
        assert torch.get_float32_matmul_precision() == "highest"
        assert not torch.backends.cuda.matmul.allow_tf32 and not torch.backends.cudnn.allow_tf32
    finally:
        torch.set_float32_matmul_precision(before[0])
        torch.backends.cudnn.allow_tf32 = before[1]


# --- tokens -----------------------------------------------------------------------------------------------------------


def everything(model: LanguageModel) -> dict[str, Any]:
    """What reading, editing and measuring make of three requests of different lengths."""
    requests = [asking("{} lives in the city of", "Ada Moss", "Paris"), asking("The home town of {} is", "Ben", "Oslo and Rome")]
    requests.append(asking("Where does {} live ?", "Cleo Vale", "Lima"))
    view, prompts, targets = LiveModel(model), [one.prompt for one in requests], [one.target for one in requests]
    scores, goal = view.score(prompts, targets), optimise(model, [build_prompts(model, one, plain.PREFIXES) for one in requests], TARGET)
    editor = FineTuneEditor(TUNE)
    with editor.editing(model, Prepared(), editor.start(model, Prepared())) as session:
        session.step(requests, None)
        tuned = model.weight(1).clone()
    return {"nll": scores.nll, "shift": goal.hidden_shift, "tuned": tuned, "texts": view.generate(prompts, 4)}


@pytest.mark.parametrize("side", ["left", "right"])
def test_no_habit_of_the_tokenizer_matters(side: str) -> None:
    """Pitfalls 7 and 14: its padding side, its padding, its truncation and its length limit are neither read nor changed."""
    expected = everything(tiny_model())
    tokenizer = word_tokenizer()
    tokenizer.padding_side = tokenizer.truncation_side = side
    tokenizer.model_max_length = 3
    tokenizer.backend_tokenizer.enable_padding(direction=side, length=20, pad_id=5)
    tokenizer.backend_tokenizer.enable_truncation(3)
    found = everything(tiny_model(tokenizer=tokenizer))
    assert found.pop("texts") == expected.pop("texts")
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    assert (tokenizer.padding_side, tokenizer.model_max_length) == (side, 3)


@pytest.mark.parametrize("family", ["gpt2", "llama"])
@pytest.mark.parametrize("template", ["{}", "{} is", "The home town is of {}"])
def test_targets_of_subjects_at_either_end_of_the_prompt(family: str, template: str) -> None:
    """Pitfall 10: lookup token, essence and the place of the prediction may coincide, and may be the very first token."""
    model = tiny_model(family, dtype=torch.float64, tokenizer=word_tokenizer(bos=False))
    batch = [build_prompts(model, asking(template, subject, "Paris"), ()) for subject in ("Ada", "Ben Reed")]
    assert batch[0].kl_prompt.subject_last == 0 and (batch[0].prompts[0].subject_last == 0) == (template != "The home town is of {}")
    follows_the_plain_loop(model, batch, TARGET)


def test_targets_stop_only_when_every_token_is_the_most_likely_one() -> None:
    """Pitfall 12: not when the first of several tokens is, nor when all are after one of the wordings."""
    model = tiny_model(dtype=torch.float64, scale=8.0, seed=1)
    unprefixed, prefixed = build_prompts(model, asking("{} lives in", "Ada Moss", "Paris"), plain.PREFIXES[:1]).prompts
    own, other = greedy(model, unprefixed.ids, 3), greedy(model, prefixed.ids, 3)
    assert own[0] != other[0], "the test needs a prefix that changes the answer"
    wrong = 2 if own[2] != 2 else 3
    cases = {(*own[:2], wrong): 5, own: 0, (wrong, *own[1:]): 5}
    stop_at_once = TARGET.model_copy(update={"stop_top1": 0, "lr": 1e-9})
    for target, steps in cases.items():
        one = PromptSet((replace(unprefixed, target=target),), kl_prompt=replace(unprefixed, target=()))
        assert optimise(model, [one], stop_at_once).steps.tolist() == [steps]
    both = PromptSet((replace(unprefixed, target=own), replace(prefixed, target=own)), kl_prompt=replace(unprefixed, target=()))
    assert optimise(model, [both], stop_at_once).steps.tolist() == [5]


def greedy(model: LanguageModel, ids: Sequence[int], count: int) -> tuple[int, ...]:
    """The model's own continuation, token by token."""
    found = list(ids)
    for _ in range(count):
        found.append(int(model.network(input_ids=torch.tensor([found])).logits[0, -1].argmax()))
    return tuple(found[len(ids) :])


def test_tokens_that_fill_rows_up_count_like_any_other() -> None:
    """Pitfall 13: padding, end of text and unknown words share ids, and a target made of them is still scored and trained."""
    model = tiny_model(dtype=torch.float64)
    filler, unknown, word = (model.tokenizer.convert_tokens_to_ids(token) for token in (BOS, UNKNOWN, "Paris"))
    assert filler == model.tokenizer.pad_token_id == model.tokenizer.eos_token_id == 0
    prompt, target = encode(model, "Ada Moss lives in"), [unknown, filler, word]
    scores = LiveModel(model).score_ids([(prompt, target), (prompt[:2], [word] * 6)])
    likely = model.network(input_ids=torch.tensor([prompt + target])).logits[0, len(prompt) - 1 : -1].log_softmax(-1)
    assert scores.mask[0].tolist() == [True] * 3 + [False] * 3
    torch.testing.assert_close(scores.nll[0, :3].double(), -likely[range(3), target], rtol=1e-5, atol=1e-6)
    editor, request = FineTuneEditor(TUNE), asking("{} lives in", "Ada Moss", "Atlantis Paris")
    with editor.editing(model, Prepared(), editor.start(model, Prepared())) as session:
        log = {quantity: value for quantity, _, value in session.step([request], None).values}
    likely = model.network(input_ids=torch.tensor([[*prompt, unknown]])).logits[0, len(prompt) - 1 :].log_softmax(-1)
    assert log["target_probability_before"] == pytest.approx(float(likely[range(2), [unknown, word]].mean().exp()))


def test_braces_are_letters() -> None:
    """Pitfall 15: a template has one place to be filled, and no text is ever a format."""
    model = tiny_model(tokenizer=bpe_tokenizer(), positions=96)
    found = build_prompts(model, asking("{ in } the town of {} {0} is", "A{d}a {}", "{x} Paris"), ("So {it} is.",))
    texts = [model.tokenizer.decode(wording.ids, skip_special_tokens=True) for wording in found.prompts]
    assert texts == ["{ in } the town of A{d}a {} {0} is", "So {it} is. { in } the town of A{d}a {} {0} is"]
    for wording in (*found.prompts, found.kl_prompt):
        assert model.tokenizer.decode(wording.through_subject, skip_special_tokens=True).endswith("A{d}a {}")
    assert model.tokenizer.decode(found.prompts[0].target).strip() == "{x} Paris"


# --- state and architecture -------------------------------------------------------------------------------------------

CHANGING = (
    *("ft_m", "locft_bf", "ultraedit", "kn", "rome", "memit", "alphaedit", "pmet", "nse", "prune", "rect"),
    *("d4s", "d4s_refreshed", "one_time_batch"),
)


@pytest.mark.parametrize("name", CHANGING)
def test_the_edited_model_is_edited_and_nothing_but_mlp_outputs_is(name: str) -> None:
    """Pitfalls 19 and 23: what is handed out carries the edits, and tied embeddings stay as they are and tied."""
    case = case_for(settings_for("nse", rounds={"above": 1e-3}) if name == "nse" else small_settings(name))
    model, editor, layers = case.make_model(), case.make_editor(), case.make_editor().settings.layers or range(3)
    state, before = case.run(len(case.requests)), {name: value.clone() for name, value in model.network.named_parameters()}
    with editor.edited(model, case.prepared, state):
        changed = {name for name, value in model.network.named_parameters() if not torch.equal(value, before[name])}
        assert model.network.get_output_embeddings().weight is model.network.get_input_embeddings().weight
    allowed = {f"transformer.h.{layer}.mlp.c_proj.weight" for layer in layers}
    assert changed and (changed <= allowed if name == "kn" else changed == allowed)


@pytest.mark.parametrize("family", ["gptj", "gpt_neox", "llama"])
def test_alphaedit_remembers_its_keys_in_every_architecture(family: str) -> None:
    """Pitfall 19: against the projected system written out, over a sequence in which forgetting the keys would show."""
    bench = Bench(settings_for("alphaedit", {**SMALL, "preservation": {"threshold": 0.05, "weight": 0.01}}), 6, family)
    found = bench.run(bench.texts)
    agree(found, plain.alphaedit(bench.model, bench.texts, bench.settings, bench.moments), 1e-7)
    forgetful = Bench(bench.settings.model_copy(update={"history": Forget()}), 6, family)
    forgetful.extras = bench.extras
    other = forgetful.run(forgetful.texts)
    assert all((found[-1][layer] - other[-1][layer]).norm() > 1e-3 * found[-1][layer].norm() for layer in found[-1])


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_targets_of_the_last_block_pass_the_final_norm_once(family: str) -> None:
    """Pitfall 24: a library that puts the final norm into the last hidden state is not asked for that state."""
    model = tiny_model(family, dtype=torch.float64)
    batch = [build_prompts(model, asking("The home town is of {}", subject, "Paris"), plain.PREFIXES) for subject in ("Ada Moss", "Ben")]
    follows_the_plain_loop(model, batch, TARGET.model_copy(update={"layer": 2}))


@contextmanager
def watched(modules: Sequence[nn.Module]) -> Iterator[list[tuple[Tensor, Tensor]]]:
    """What modules put out before any other hook sees it: the tensors themselves, and copies of them."""
    seen: list[tuple[Tensor, Tensor]] = []

    def note(_module: nn.Module, _args: Any, output: Any) -> None:
        first = output[0] if isinstance(output, tuple) else output
        seen.append((first, first.detach().clone()))

    handles = [module.register_forward_hook(note, prepend=True) for module in modules]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


@pytest.mark.parametrize("family", ["gpt2", "gptj", "llama"])
@pytest.mark.parametrize("name", ["pmet", "memit", "grace", "kn"])
def test_no_hook_writes_into_the_tensor_that_it_is_given(name: str, family: str) -> None:
    """Pitfall 25: modules may return tuples or tensors, and what they returned stays as it was."""
    case = case_for(small_settings(name), family=family, count=2)
    model, editor = case.make_model(), case.make_editor()
    parts = [part for layer in range(model.n_layers) for part in (model.block(layer), model.mlp_out(layer), model.attention(layer))]
    with watched(parts) as seen, editor.editing(model, case.prepared, editor.start(model, case.prepared)) as session:
        for request in case.requests:
            session.step([request], None)
        live = session.live()
        assert live is not None
        live.score([request.prompt for request in case.requests], [request.target for request in case.requests])
    assert len(seen) > 10 and all(torch.equal(now, then) for now, then in seen)


def test_dropout_never_acts() -> None:
    """Pitfall 28: a network that arrives in training mode is put into evaluation mode, and editing leaves it there."""
    calm, network = tiny_model(), tiny_model().network
    for module in network.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.5
    assert not torch.equal(*(network.train()(input_ids=torch.tensor([[3, 4, 5]])).logits for _ in range(2)))
    found, expected = everything(wrap(network, word_tokenizer())), everything(calm)
    assert found.pop("texts") == expected.pop("texts")
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    assert not any(module.training for module in network.modules())


class Packed(nn.Linear):
    """A layer as quantising libraries make them: a linear one by descent, its weight packed into something that is no matrix."""

    def __init__(self, size_in: int, size_out: int) -> None:
        super().__init__(size_in, size_out, bias=False)
        self.weight = nn.Parameter(torch.zeros(size_in * size_out // 2, 1), requires_grad=False)


@pytest.mark.parametrize("packed_class", [True, False])
def test_quantised_weights_are_refused(packed_class: bool) -> None:
    """Pitfall 29: before anything is edited, with the layer and what to do."""
    model = tiny_model("llama")
    packed = Packed(64, 16) if packed_class else nn.Linear(64, 16, bias=False)
    if not packed_class:
        packed.weight = nn.Parameter(torch.zeros(16, 64, dtype=torch.int8), requires_grad=False)
    model.block(1).mlp.down_proj = packed
    with pytest.raises(SettingsError, match=r"model\.layers\.1\.mlp\.down_proj is a .*; load the model unquantised"):
        replace(model)


# --- evaluation -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", [ROOT / "params.yaml", *sorted((ROOT / "grids").glob("*.yaml"))], ids=lambda path: path.stem)
def test_every_panel_that_we_ship_has_the_unedited_model(path: Path) -> None:
    """Pitfall 33: a score says little without the one before any edit; single edits have theirs without being asked."""
    grid = load_study(path).grid
    panels = {(model, dataset) for row in grid for model in row.models for dataset in row.datasets}
    with_reference = [row for row in grid if "unedited" in row.editors or row.protocol == "single"]
    held = {(model, dataset) for row in with_reference for model in row.models for dataset in row.datasets}
    assert panels and panels == held


def test_generation_draws_nothing() -> None:
    """Pitfall 32: free answers are greedy, so the global generator is neither read nor moved."""
    model = tiny_model()
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    texts = LiveModel(model).generate(["Ada Moss lives in", "Where does Ben live ?"], 6)
    assert torch.equal(torch.rand(1), expected) and texts == LiveModel(model).generate(["Ada Moss lives in", "Where does Ben live ?"], 6)


def test_the_identity_is_another_rome() -> None:
    """Pitfall 31: with and without the second moment the same request gets different weights, under different names."""
    single = {**SMALL, "layers": (1,)}
    found = [Bench(settings_for(name, single), 1) for name in ("rome", "rome_identity")]
    (ours,), (theirs,) = (bench.run(bench.texts) for bench in found)
    assert (ours[1] - theirs[1]).norm() > 1e-2 * ours[1].norm()
    assert [build(bench.settings).settings.preservation.kind for bench in found] == ["moments", "identity"]
