"""An edited folder's state as a change of weights, a LoRA adapter, or a whole model.

A LoRA adapter holds ΔW = B A by singular values, largest first. Its rank is counted among them: that of one edit is 1 for most
editors, but more where an edit goes in rounds or a whole change is scrambled. The change is taken from the state in float32,
whatever the model's precision, since one rounded to bfloat16 has no low rank; what float32 rounds is not counted either.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from d4s.apply.folder import Folder, reading
from d4s.apply.origin import Origin
from d4s.apply.outcome import Changes, module_name, named, write_model
from d4s.artifacts import write_json, write_tensors
from d4s.errors import SettingsError
from d4s.locks import new_folder
from d4s.models.language_model import LanguageModel

Format = Literal["delta", "lora", "full"]
Factors = tuple[Float[Tensor, "r d_in"], Float[Tensor, "d_out r"]]


def export(path: Path, kind: Format, out: Path, rank: int | None, device: str) -> Mapping[str, float]:
    """Write the present state in a format, whole or not at all.

    For LoRA, returns what its rank leaves out of each changed module, relative to the change.

    Raises:
        SettingsError: if the editor changes no weights, a rank is given for anything but LoRA, or `out` is there already.
        D4SError: if another command is changing the folder, or is at work in `out`.
    """
    with reading(path) as (folder,):
        if folder.editor.kind == "memory":
            raise SettingsError(
                f"{folder.description.editor} changes no weights: its entries answer beside the model, so nothing can be exported as "
                f"{kind}; use {path} itself, by d4s ask or from Python"
            )
        if rank is not None and kind != "lora":
            raise SettingsError(f"--rank is about --format lora only, found --format {kind}")
        with new_folder(out) as part:
            return _write(folder, kind, part, rank, device)


def _write(folder: Folder, kind: Format, out: Path, rank: int | None, device: str) -> Mapping[str, float]:
    """Write the present state into a folder; for LoRA, what its rank leaves out."""
    model, prepared = folder.loaded(device, dtype="float32" if kind == "lora" else None)
    with folder.editor.edited(model, prepared, folder.state()) as view:
        changes = view.weight_changes() or {}
        if kind == "lora":
            return _write_lora(folder, model, changes, out, rank)
        if kind == "full":
            write_model(out, model)
        else:
            write_tensors(out / "delta.safetensors", named(model, changes))
            write_json(out / "base.json", folder.description.model.model_dump(mode="json"))
    return {}


def _write_lora(folder: Folder, model: LanguageModel, changes: Changes, out: Path, rank: int | None) -> dict[str, float]:
    """Write an adapter in the format of `peft`; what its rank leaves out of each changed module, relative to the change."""
    tensors, errors, chosen = adapter(model, changes, rank)
    write_adapter(out, tensors, adapter_config(folder.description.model, model, [*errors], chosen))
    return errors


def write_adapter(out: Path, tensors: Mapping[str, Tensor], config: Mapping[str, object]) -> None:
    """Write factors and what `peft` reads beside them into a folder."""
    write_tensors(out / "adapter_model.safetensors", tensors, {"format": "pt"})
    write_json(out / "adapter_config.json", config)


def adapter(model: LanguageModel, changes: Changes, rank: int | None) -> tuple[dict[str, Tensor], dict[str, float], int]:
    """Changes of weights as LoRA factors by `peft`'s names, what they leave out of each module, and their rank.

    Without a rank it is the lowest that leaves out nothing that the weights' precision shows. What is left out is the Frobenius
    norm of the rest relative to that of the change.

    Raises:
        SettingsError: if the rank is below 1.
    """
    if rank is not None and rank < 1:
        raise SettingsError(f"the rank of an adapter is at least 1, found {rank}")
    smallest = min([min(change.shape) for change in changes.values()], default=1)
    needed = rank or max([1, *(rank_of(change, model.weight(layer)) for layer, change in changes.items())])
    chosen = min(needed, smallest)
    tensors: dict[str, Tensor] = {}
    errors: dict[str, float] = {}
    for layer, change in changes.items():
        name = module_name(model, layer)
        (right, left), errors[name] = factors(change, chosen)
        tensors |= {f"base_model.model.{name}.lora_A.weight": right.cpu(), f"base_model.model.{name}.lora_B.weight": left.cpu()}
    return tensors, errors, chosen


def rank_of(change: Float[Tensor, "d_out d_in"], edited: Float[Tensor, "d_out d_in"]) -> int:
    """The rank of a change, as far as the edited weight's precision shows it.

    Edited and unedited weights are rounded, which moves their difference by at most ε‖W + ΔW‖ in Frobenius' norm, ε being
    the step after 1: no smaller singular value can be told from rounding.
    """
    rounding = torch.finfo(edited.dtype).eps * float(edited.double().norm())
    return int((torch.linalg.svdvals(change.double()) > rounding).sum())


def factors(change: Float[Tensor, "d_out d_in"], rank: int) -> tuple[Factors, float]:
    """A change as two factors of a rank in float32, and the Frobenius norm of what they leave out, relative to the change's."""
    left, values, right = torch.linalg.svd(change.double(), full_matrices=False)
    root = values[:rank].sqrt()
    whole = float(values.norm())
    error = float(values[rank:].norm()) / whole if whole else 0.0
    return ((root[:, None] * right[:rank]).float(), (left[:, :rank] * root).float()), error


def adapter_config(origin: Origin, model: LanguageModel, modules: Sequence[str], rank: int) -> dict[str, object]:
    """What `peft` reads beside the factors; their scale is 1."""
    return {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": origin.source,
        "revision": origin.revision,
        "target_modules": list(modules),
        "r": rank,
        "lora_alpha": rank,  # scale lora_alpha / r = 1
        "lora_dropout": 0.0,
        "bias": "none",
        "fan_in_fan_out": model.adapter.weight_layout == "in_out",
        "inference_mode": True,
    }
