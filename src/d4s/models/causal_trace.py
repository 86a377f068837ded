"""Causal tracing (Meng et al. 2022, section 2): which hidden states of a clean pass bring the answer back to a noised prompt.

A prompt runs once clean and, in several copies, with noise on its subject. Hidden states of the clean pass, at some tokens and in a
window of layers, then replace those of the noised copies. Below the window and before the tokens a noised copy stays as it was, so it
is restarted there: all windows run together, each from its lowest block on, only for the tokens from the first restored one on.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from d4s.config import TokenRole, TraceSettings
from d4s.models.language_model import LanguageModel
from d4s.models.restart import RecordedPass, record_pass
from d4s.models.subject_noise import added_to_embeddings, spread_noise, subject_noise
from d4s.models.trace import trace


@dataclass(frozen=True, slots=True)
class TracedPrompt:
    """A prompt as token ids, the indices of its subject's tokens, and the ids of the answer whose probability is followed."""

    ids: tuple[int, ...]
    subject: range
    answer: tuple[int, ...]

    @property
    def teacher_forced(self) -> tuple[int, ...]:
        """The prompt and all but the last token of the answer."""
        return self.ids + self.answer[:-1]

    def role(self, position: int) -> TokenRole:
        """What a token from the subject on is; of a subject of one token it is the last."""
        if position <= self.subject[-1]:
            is_first = position == self.subject.start
            return "last_subject" if position == self.subject[-1] else "first_subject" if is_first else "mid_subject"
        return "last" if position == len(self.ids) - 1 else "after"


class CausalTrace:
    """One prompt, run clean and noised. Probabilities are those of all tokens of the answer together, means over the copies."""

    def __init__(self, model: LanguageModel, prompt: TracedPrompt, settings: TraceSettings) -> None:
        self._model, self._prompt, self._hook = model, prompt, settings.hook
        ids = torch.tensor([prompt.teacher_forced], device=model.device).expand(1 + settings.noise.copies, -1)
        noise = subject_noise(model, prompt.ids, prompt.subject, settings.noise)
        addition = spread_noise([torch.cat([torch.zeros_like(noise[:1]), noise])], [prompt.subject], ids.shape[1])
        blocks = {("block", layer): model.block(layer) for layer in range(model.n_layers)}
        restored = {("restored", layer): self._module(layer) for layer in range(model.n_layers)}
        with added_to_embeddings(model, addition), trace(blocks | restored) as found:
            self._recorded: RecordedPass = record_pass(model, ids, -1)
        self._entered = [found.inputs["block", layer][1:] for layer in range(model.n_layers)]
        self._clean = [found.outputs["restored", layer][0] for layer in range(model.n_layers)]
        whole = self._probability(found.outputs["block", model.n_layers - 1], 0)
        self.clean, self.corrupted = float(whole[0]), float(whole[1:].mean())

    @torch.no_grad()
    def restored(self, windows: Sequence[range], tokens: range) -> Float[Tensor, " windows"]:
        """The probability of the answer for each window of layers restored at the tokens, in float64."""
        order = sorted(range(len(windows)), key=lambda number: windows[number].start)
        begin, end = tokens.start, len(self._prompt.teacher_forced)
        copies = len(self._entered[0])
        later = self._recorded.restart([begin] * (1 + copies), [end] * (1 + copies))
        rows = 1 + torch.arange(copies)
        hidden = self._entered[0].new_zeros(0, end - begin, self._entered[0].shape[-1])
        for layer in range(windows[order[0]].start, self._model.n_layers):
            joining = sum(windows[number].start == layer for number in order)
            hidden = torch.cat([hidden, self._entered[layer][:, begin:].repeat(joining, 1, 1).to(hidden)])
            running = [windows[number] for number in order[: len(hidden) // copies]]
            is_restored = torch.tensor([layer in window for window in running]).repeat_interleave(copies)
            with self._restoring(layer, is_restored, tokens):
                hidden = later.only(layer).select(rows.repeat(len(running))).run_block(layer, hidden)
        found = self._probability(hidden, begin).view(len(windows), copies).mean(1)
        return found[torch.tensor(order).argsort()]

    def _module(self, layer: int) -> nn.Module:
        return self._model.mlp_out(layer) if self._hook == "mlp_output" else self._model.block(layer)

    @contextmanager
    def _restoring(self, layer: int, rows: Tensor, tokens: range) -> Iterator[None]:
        """The clean pass's output of a layer in place of that of some rows, whose tokens begin with the restored ones."""

        def restore(_module: nn.Module, _args: object, output: Tensor | tuple[Tensor, ...]) -> Tensor | tuple[Tensor, ...]:
            whole = output if isinstance(output, Tensor) else output[0]
            changed = whole.clone()
            changed[rows.to(whole.device), : len(tokens)] = self._clean[layer][tokens.start : tokens.stop].to(whole)
            return changed if isinstance(output, Tensor) else (changed, *output[1:])

        handle = self._module(layer).register_forward_hook(restore)
        try:
            yield
        finally:
            handle.remove()

    def _probability(self, hidden: Float[Tensor, "rows s d"], begin: int) -> Float[Tensor, " rows"]:
        """Probability of the answer from the last block's output for the tokens from `begin` on."""
        first, answer = len(self._prompt.ids) - 1 - begin, torch.tensor(self._prompt.answer, device=hidden.device)
        read = self._model.final_norm(hidden[:, first : first + len(answer)])
        log_probs = self._model.unembed(read).to(torch.promote_types(read.dtype, torch.float32)).log_softmax(-1)
        of_answer = log_probs.gather(-1, answer.to(log_probs.device).expand(len(hidden), -1)[..., None])[..., 0]
        return of_answer.double().sum(1).exp().cpu()
