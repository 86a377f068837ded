"""Slow, direct transcriptions of further methods: explicit systems and inverses, one text at a time."""

import math
from collections.abc import Sequence
from contextlib import ExitStack

import torch
from torch import Tensor

from d4s.editors.prompts import PromptSet
from d4s.models.language_model import LanguageModel
from tests.oracle.plain import average_key, got, hidden_of, key_of, preserved_by, put, target_of, watching


def eye(size: int) -> Tensor:
    return torch.eye(size, dtype=torch.float64)


def changes(model: LanguageModel, original: dict[int, Tensor]) -> dict[int, Tensor]:
    return {layer: got(model, layer) - weight for layer, weight in original.items()}


class Plain:
    """What the loops below share: original weights, Gram matrices of earlier keys, and the restoring at the end."""

    def __init__(self, model: LanguageModel, settings, moments) -> None:
        self.model, self.settings, self.layers = model, settings, settings.layers
        self.original = {layer: got(model, layer) for layer in self.layers}
        width = {layer: weight.shape[1] for layer, weight in self.original.items()}
        self.seen = {layer: torch.zeros(width[layer], width[layer], dtype=torch.float64) for layer in self.layers}
        confined = settings.preservation.kind == "null_space"
        self.base = {} if confined else {layer: preserved_by(settings, moments, layer) for layer in self.layers}
        for layer in self.base:
            self.base[layer] += getattr(settings.preservation, "ridge", 0.0) * eye(width[layer])

    def key(self, one: PromptSet, layer: int) -> Tensor:
        return average_key(self.model, one, layer, self.settings.keys)

    def missing(self, one: PromptSet, goal: dict[str, Tensor]) -> Tensor:
        return goal["hidden"] + goal["hidden_shift"] - hidden_of(self.model, one.prompts[0], self.settings.target)

    def run(self, edits: Sequence[PromptSet], one_edit) -> list[dict[int, Tensor]]:
        history = []
        for one in edits:
            one_edit(self, one)
            history.append(changes(self.model, self.original))
        for layer, weight in self.original.items():
            put(self.model, layer, weight)
        return history


# --- PMET ---------------------------------------------------------------------------------------------------------------


def joint_target_of(model: LanguageModel, one: PromptSet, settings) -> dict[str, Tensor]:
    """Shifts of the MLP's and the attention's output at once, on the whole model."""
    modules = (model.mlp_out(settings.layer), model.attention(settings.layer))
    hidden = []
    for module in modules:
        with watching(module) as seen:
            model.network(input_ids=torch.tensor([one.prompts[0].ids]))
        hidden.append(seen["out"][0, one.prompts[0].subject_last].double())
    shifts = [torch.zeros_like(vector, requires_grad=True) for vector in hidden]
    adam = torch.optim.Adam(shifts, lr=settings.lr)
    before = None

    def likely(ids, subject_last):
        with ExitStack() as stack:
            for module, shift in zip(modules, shifts, strict=True):

                def change(output, shift=shift):
                    output = output.clone()
                    output[0, subject_last] = output[0, subject_last] + shift
                    return output

                stack.enter_context(watching(module, change))
            return model.network(input_ids=torch.tensor([ids])).logits[0].log_softmax(-1)

    for step in range(settings.steps):
        nll, settled = 0.0, True
        for wording in one.prompts:
            found = likely(wording.ids + wording.target[:-1], wording.subject_last)
            rows = found[len(wording.ids) - 1 : len(wording.ids) - 1 + len(wording.target)]
            nll = nll - rows[range(len(wording.target)), list(wording.target)].mean() / len(one.prompts)
            settled &= rows.argmax(-1).tolist() == list(wording.target)
        present = likely(one.kl_prompt.ids, one.kl_prompt.subject_last)[one.kl_prompt.subject_last]
        before = present.detach() if before is None else before
        divergence = (present.exp() * (present - before)).sum()
        decay = sum(shift.norm() / vector.norm() ** 2 for shift, vector in zip(shifts, hidden, strict=True))
        loss = (settings.top1_weight if settled else 1.0) * nll + settings.kl_weight * divergence + settings.weight_decay * decay
        if loss.item() < settings.stop_loss or (settled and divergence.item() <= settings.top1_divergence) or step == settings.steps - 1:
            break
        adam.zero_grad()
        loss.backward()
        adam.step()
        with torch.no_grad():
            for shift, vector in zip(shifts, hidden, strict=True):
                shift.mul_(min(1.0, settings.clamp * vector.norm() / shift.norm()))
    return {"hidden_shift": shifts[0].detach(), "hidden": hidden[0]}


def pmet(model: LanguageModel, edits: Sequence[PromptSet], settings, moments) -> list[dict[int, Tensor]]:
    def one_edit(at: Plain, one: PromptSet) -> None:
        goal = joint_target_of(model, one, settings.target)
        for i, layer in enumerate(at.layers):
            key = at.key(one, layer)
            residual = at.missing(one, goal) / math.sqrt(len(at.layers) - i)
            put(model, layer, got(model, layer) + torch.outer(residual, key) @ torch.linalg.inv(torch.outer(key, key) + at.base[layer]))

    return Plain(model, settings, moments).run(edits, one_edit)


# --- NSE ----------------------------------------------------------------------------------------------------------------


def nse(model: LanguageModel, edits: Sequence[PromptSet], settings, moments) -> list[dict[int, Tensor]]:
    """Targets of the original model; rounds while the residual lies within its bounds; sub-blocks of the chosen neurons."""
    goals = {id(one): target_of(model, one, settings.target) for one in edits}

    def one_edit(at: Plain, one: PromptSet) -> None:
        goal = goals[id(one)]
        for _ in range(settings.rounds.most):
            if not settings.rounds.above < at.missing(one, goal).norm() < settings.rounds.below:
                break
            for i, layer in enumerate(at.layers):
                key = at.key(one, layer)
                residual = at.missing(one, goal) / (len(at.layers) - i)
                chosen, held = [], 0.0
                for neuron in sorted(range(len(key)), key=lambda n: -abs(float(key[n]))):
                    if held >= settings.neurons * float(key.abs().sum()) * (1 - 1e-12):
                        break
                    chosen.append(neuron)
                    held += abs(float(key[neuron]))
                part = key[chosen]
                system = (at.base[layer] + at.seen[layer])[chosen][:, chosen] + torch.outer(part, part)
                update = torch.zeros_like(at.original[layer])
                update[:, chosen] = torch.outer(residual, torch.linalg.inv(system) @ part)
                put(model, layer, got(model, layer) + update)
        for layer in at.layers:
            key = at.key(one, layer)
            at.seen[layer] += torch.outer(key, key)

    return Plain(model, settings, moments).run(edits, one_edit)


# --- one key everywhere, and a target for each layer ----------------------------------------------------------------------


def consistent_rome(model: LanguageModel, edits: Sequence[PromptSet], settings, moments) -> list[dict[int, Tensor]]:
    """R-ROME: the mean key and the mean output in the numerator and in the denominator."""

    def one_edit(at: Plain, one: PromptSet) -> None:
        (layer,) = at.layers
        goal = target_of(model, one, settings.target)
        key = sum(key_of(model, wording, layer) for wording in one.prompts) / len(one.prompts)
        output = sum(hidden_of(model, wording, settings.target) for wording in one.prompts) / len(one.prompts)
        direction = torch.linalg.inv(at.base[layer]) @ key
        direction = direction / direction.norm()
        left = (goal["hidden"] + goal["hidden_shift"] - output) / (key @ direction)
        put(model, layer, got(model, layer) + torch.outer(left, direction))

    return Plain(model, settings, moments).run(edits, one_edit)


def blue(model: LanguageModel, edits: Sequence[PromptSet], settings, moments) -> list[dict[int, Tensor]]:
    """A target at each layer, optimised with the layers below already edited, and its whole shift."""

    def one_edit(at: Plain, one: PromptSet) -> None:
        for layer in at.layers:
            goal = target_of(model, one, settings.target.model_copy(update={"layer": layer}))
            key = at.key(one, layer)
            system = at.base[layer] + torch.outer(key, key)
            put(model, layer, got(model, layer) + torch.outer(goal["hidden_shift"], torch.linalg.inv(system) @ key))

    return Plain(model, settings, moments).run(edits, one_edit)


def memit_fe(model: LanguageModel, edits: Sequence[PromptSet], settings, moments) -> list[dict[int, Tensor]]:
    """A target at each layer, all optimised before any layer is written, and all that is missing of it in its turn."""

    def one_edit(at: Plain, one: PromptSet) -> None:
        own = {layer: settings.target.model_copy(update={"layer": layer}) for layer in at.layers}
        goals = {layer: target_of(model, one, target) for layer, target in own.items()}
        for layer, goal in goals.items():
            key = at.key(one, layer)
            missing = goal["hidden"] + goal["hidden_shift"] - hidden_of(model, one.prompts[0], own[layer])
            system = at.base[layer] + torch.outer(key, key)
            put(model, layer, got(model, layer) + torch.outer(missing, torch.linalg.inv(system) @ key))

    return Plain(model, settings, moments).run(edits, one_edit)


# --- what is done to a step, with key history where the settings have it --------------------------------------------------


def memit_with(model: LanguageModel, edits: Sequence[PromptSet], settings, moments, after) -> list[dict[int, Tensor]]:
    """MEMIT whose steps pass through `after(at, layer, right_hand_side, system, key)` before they are written."""

    def one_edit(at: Plain, one: PromptSet) -> None:
        goal = target_of(model, one, settings.target)
        for i, layer in enumerate(at.layers):
            key = at.key(one, layer)
            right = torch.outer(at.missing(one, goal) / (len(at.layers) - i), key)
            system = at.base[layer] + at.seen[layer] + torch.outer(key, key)
            put(model, layer, got(model, layer) + after(at, layer, right, system, key))
            if settings.history.kind == "keys":
                at.seen[layer] += torch.outer(key, key)

    return Plain(model, settings, moments).run(edits, one_edit)


def largest_entries(step: Tensor, weight: Tensor, share: float) -> Tensor:
    relative = (step / (weight + 1e-8)).abs()
    count = math.ceil(share * step.numel())
    kept = torch.zeros_like(step).flatten()
    order = relative.flatten().argsort(descending=True)[:count]
    kept[order] = step.flatten()[order]
    return kept.view_as(step)


def rect(model: LanguageModel, edits: Sequence[PromptSet], settings, moments) -> list[dict[int, Tensor]]:
    """RECT; with feedback the right-hand side is less E, the defect of the step before times its system (OTE-SE)."""
    errors: dict[int, Tensor] = {}

    def after(at: Plain, layer: int, right: Tensor, system: Tensor, key: Tensor) -> Tensor:
        step = (right - errors.get(layer, torch.zeros_like(right))) @ torch.linalg.inv(system)
        written = largest_entries(step, got(model, layer), settings.step_transform.keep)
        if settings.step_transform.feedback:
            errors[layer] = (written - step) @ system
        return written

    return memit_with(model, edits, settings, moments, after)


def simie(model: LanguageModel, edits: Sequence[PromptSet], settings, moments) -> list[dict[int, Tensor]]:
    grams: dict[int, Tensor] = {}

    def after(at: Plain, layer: int, right: Tensor, system: Tensor, key: Tensor) -> Tensor:
        grams[layer] = grams.get(layer, torch.zeros_like(system)) + torch.outer(key, key)
        step = right @ torch.linalg.inv(system)
        return step @ torch.outer(key, key) @ torch.linalg.inv(settings.step_transform.weight * eye(len(key)) + grams[layer])

    return memit_with(model, edits, settings, moments, after)


def sphere(model: LanguageModel, edits: Sequence[PromptSet], settings, moments) -> list[dict[int, Tensor]]:
    def after(at: Plain, layer: int, right: Tensor, system: Tensor, key: Tensor) -> Tensor:
        rows = at.original[layer] / at.original[layer].norm(dim=1, keepdim=True)
        values, vectors = torch.linalg.eigh(rows.T @ rows)
        held, main = 0.0, []
        for number in reversed(range(len(values))):
            main.append(vectors[:, number])
            held += float(values[number] / values.sum())
            if held >= settings.step_transform.energy:
                break
        directions = torch.stack(main, 1)
        step = right @ torch.linalg.inv(system)
        return step @ (eye(len(key)) - settings.step_transform.strength * directions @ directions.T)

    return memit_with(model, edits, settings, moments, after)


def pruned(delta: Tensor, original: Tensor, base: float) -> Tensor:
    left, values, right = torch.linalg.svd(delta, full_matrices=False)
    largest = float(torch.linalg.svdvals(original)[0])
    for i, value in enumerate(values.tolist()):
        if value > largest:
            values[i] = math.log(value, base) - math.log(largest, base) + largest
    return left @ torch.diag(values) @ right


# --- LyapLock -----------------------------------------------------------------------------------------------------------


def lyaplock(model: LanguageModel, edits: Sequence[PromptSet], settings, moments) -> list[dict[int, Tensor]]:
    """The step of its source: new edits, what is preserved times the queue, and what earlier edits still lack, in one system."""
    queue = dict.fromkeys(settings.layers, 1.0)
    first: dict[int, float] = {}
    targets: dict[int, Tensor] = {}

    def one_edit(at: Plain, one: PromptSet) -> None:
        goal = target_of(model, one, settings.target)
        for i, layer in enumerate(at.layers):
            key, weight = at.key(one, layer), got(model, layer)
            residual = at.missing(one, goal) / (len(at.layers) - i)
            earlier = targets.get(layer, torch.zeros_like(weight))
            kept = queue[layer] * at.base[layer]
            right = torch.outer(residual, key) + (at.original[layer] - weight) @ kept + earlier - weight @ at.seen[layer]
            update = right @ torch.linalg.inv(torch.outer(key, key) + kept + at.seen[layer])
            targets[layer] = earlier + torch.outer(weight @ key + residual, key)
            at.seen[layer] += torch.outer(key, key)
            put(model, layer, weight + update)
            change = weight + update - at.original[layer]
            loss = float((change @ at.base[layer] @ change.T).trace())
            first.setdefault(layer, loss)
            queue[layer] = max(1.0, queue[layer] + loss / (settings.history.slack * first[layer]) - 1.0)

    return Plain(model, settings, moments).run(edits, one_edit)


# --- AnyEdit ------------------------------------------------------------------------------------------------------------

Text = tuple[tuple[int, ...], tuple[int, ...]]


def windows_of(model: LanguageModel, text: Text, settings) -> dict[int, Tensor]:
    """Target hidden states by position, a window of the answer after another, with the shifts before it in place."""
    prompt, answer = text
    held: list[tuple[int, Tensor]] = []
    wanted: dict[int, Tensor] = {}
    for start in range(0, len(answer), settings.windows):
        ids, window = prompt + answer[:start], answer[start : start + settings.windows]
        place = len(ids) - 1
        with watching(model.block(settings.layer)) as seen:
            model.network(input_ids=torch.tensor([ids]))
        hidden = seen["out"][0, place].double()
        shift = torch.zeros_like(hidden, requires_grad=True)
        adam = torch.optim.Adam([shift], lr=settings.lr)

        def change(output, shifts=(*held, (place, shift))):
            added = torch.zeros_like(output)
            for at, vector in shifts:
                added[0, at] = added[0, at] + vector
            return output + added

        for step in range(settings.steps):
            with watching(model.block(settings.layer), change):
                logits = model.network(input_ids=torch.tensor([ids + window[:-1]])).logits[0]
            rows = logits[place:].log_softmax(-1)
            loss = -rows[range(len(window)), list(window)].mean() + settings.weight_decay * shift.norm() / hidden.norm() ** 2
            if loss.item() < settings.stop_loss or step == settings.steps - 1:
                break
            adam.zero_grad()
            loss.backward()
            adam.step()
            with torch.no_grad():
                shift.mul_(min(1.0, settings.clamp * hidden.norm() / shift.norm()))
        held.append((place, shift.detach()))
        wanted[place] = hidden + shift.detach()
    return wanted


def anyedit(model: LanguageModel, batches: Sequence[Sequence[Text]], settings, moments) -> list[dict[int, Tensor]]:
    """Every position of a text is a column: one with a target where a window begins, one that is preserved everywhere else."""
    at, target = Plain(model, settings, moments), settings.target
    history = []
    for batch in batches:
        wanted = [windows_of(model, text, target) for text in batch]
        for i, layer in enumerate(at.layers):
            keys, missing, kept = [], [], []
            for (prompt, answer), goals in zip(batch, wanted, strict=True):
                with watching(model.mlp_out(layer)) as inner, watching(model.block(target.layer)) as outer:
                    model.network(input_ids=torch.tensor([prompt + answer]))
                for place, key in enumerate(inner["in"][0].double()):
                    if place in goals:
                        keys.append(key)
                        missing.append((goals[place] - outer["out"][0, place].double()) / (len(at.layers) - i))
                    elif settings.keys.context:
                        kept.append(key)
            gram, right = sum(torch.outer(key, key) for key in keys), sum(map(torch.outer, missing, keys))
            here = gram + sum((torch.outer(key, key) for key in kept), torch.zeros_like(gram))
            if settings.preservation.kind == "null_space":
                left, values, _ = torch.linalg.svd(moments[layer].mean())
                free = left[:, values < settings.preservation.threshold]
                system = free @ free.T @ (at.seen[layer] + here) + settings.preservation.weight * eye(len(gram))
                update = torch.linalg.solve(system, free @ free.T @ right.T).T
            else:
                update = right @ torch.linalg.inv(at.base[layer] + at.seen[layer] + here)
            put(model, layer, got(model, layer) + update)
            if settings.history.kind == "keys":
                at.seen[layer] += gram
        history.append(changes(model, at.original))
    for layer, weight in at.original.items():
        put(model, layer, weight)
    return history
