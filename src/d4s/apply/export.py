"""An edited folder's state as a change of weights, a LoRA adapter, or a whole model in Hugging Face's or llama.cpp's format.

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

from d4s.apply.base_model import BaseModelSource
from d4s.apply.edited_folder import EditedFolder, open_shared
from d4s.apply.export_gguf import base_file, write_gguf
from d4s.apply.outcome import WeightDeltas, module_name, to_state_dict, write_model
from d4s.artifacts import write_json, write_tensors
from d4s.editors.protocol import BESIDE_THE_MODEL
from d4s.errors import SettingsError
from d4s.locks import new_folder
from d4s.models.language_model import LanguageModel

ExportFormat = Literal["delta", "lora", "full", "gguf"]
GGUF_NAME = "model.gguf"
Factors = tuple[Float[Tensor, "r d_in"], Float[Tensor, "d_out r"]]


def export(path: Path, kind: ExportFormat, out: Path, rank: int | None, device: str, *, gguf: Path | None = None) -> Mapping[str, float]:
    """Write the present state in a format, whole or not at all.

    For LoRA, returns what its rank leaves out of each changed module, relative to the change. `gguf` is the unedited model's
    GGUF file, where it was not edited from one.

    Raises:
        SettingsError: if the editor changes no weights, an option is given that the format does not have, no GGUF file is known, or
            `out` is there already.
        ArtifactError: if a GGUF file is not the unedited model's.
        D4SError: if another command is changing the folder, or is at work in `out`.
    """
    with open_shared(path, device=device, dtype="float32" if kind == "lora" else None) as (folder,):
        if folder.editor.kind in BESIDE_THE_MODEL:
            raise SettingsError(
                f"{folder.manifest.editor} changes no weights: its entries answer beside the model, so nothing can be exported as "
                f"{kind}; use {path} itself, by d4s ask or from Python"
            )
        if rank is not None and kind != "lora":
            raise SettingsError(f"--rank is about --format lora only, found --format {kind}")
        if gguf is not None and kind != "gguf":
            raise SettingsError(f"--gguf is about --format gguf only, found --format {kind}")
        with new_folder(out) as part:
            return _write_gguf(folder, part, gguf) if kind == "gguf" else _write(folder, kind, part, rank)


def _write_gguf(folder: EditedFolder, out: Path, gguf: Path | None) -> Mapping[str, float]:
    """Write the edited matrices into a copy of the unedited model's GGUF file."""
    base, model = base_file(folder.manifest.model.source, gguf), folder.model
    with folder.edited() as view:
        deltas = view.weight_changes() or {}
        unedited = {layer: (model.weight(layer).float() - delta.to(model.device).float()).cpu().numpy() for layer, delta in deltas.items()}
        out.mkdir()
        write_gguf(out / GGUF_NAME, base, model, unedited)
    return {}


def _write(folder: EditedFolder, kind: ExportFormat, out: Path, rank: int | None) -> Mapping[str, float]:
    """Write the present state into a folder; for LoRA, what its rank leaves out."""
    with folder.edited() as view:
        deltas = view.weight_changes() or {}
        if kind == "lora":
            return _write_lora(folder, deltas, out, rank)
        if kind == "full":
            write_model(out, folder.model)
        else:
            write_tensors(out / "delta.safetensors", to_state_dict(folder.model, deltas))
            write_json(out / "base.json", folder.manifest.model.model_dump(mode="json"))
    return {}


def _write_lora(folder: EditedFolder, deltas: WeightDeltas, out: Path, rank: int | None) -> dict[str, float]:
    """Write an adapter in the format of `peft`; what its rank leaves out of each changed module, relative to the change."""
    tensors, errors, used_rank = lora_adapter(folder.model, deltas, rank)
    write_lora(out, tensors, lora_config(folder.manifest.model, folder.model, [*errors], used_rank))
    return errors


def write_lora(out: Path, tensors: Mapping[str, Tensor], config: Mapping[str, object]) -> None:
    """Write factors and what `peft` reads beside them into a folder."""
    write_tensors(out / "adapter_model.safetensors", tensors, {"format": "pt"})
    write_json(out / "adapter_config.json", config)


def lora_adapter(model: LanguageModel, deltas: WeightDeltas, rank: int | None) -> tuple[dict[str, Tensor], dict[str, float], int]:
    """Changes of weights as LoRA factors by `peft`'s names, what they leave out of each module, and their rank.

    Without a rank it is the lowest that leaves out nothing that the weights' precision shows. What is left out is the Frobenius
    norm of the rest relative to that of the change.

    Raises:
        SettingsError: if the rank is below 1.
    """
    if rank is not None and rank < 1:
        raise SettingsError(f"the rank of an adapter is at least 1, found {rank}")
    smallest = min([min(delta.shape) for delta in deltas.values()], default=1)
    needed = rank or max([1, *(numerical_rank(delta, model.weight(layer)) for layer, delta in deltas.items())])
    used_rank = min(needed, smallest)
    tensors: dict[str, Tensor] = {}
    errors: dict[str, float] = {}
    for layer, delta in deltas.items():
        name = module_name(model, layer)
        (right, left), errors[name] = lora_factors(delta, used_rank)
        tensors |= {f"base_model.model.{name}.lora_A.weight": right.cpu(), f"base_model.model.{name}.lora_B.weight": left.cpu()}
    return tensors, errors, used_rank


def numerical_rank(delta: Float[Tensor, "d_out d_in"], edited: Float[Tensor, "d_out d_in"]) -> int:
    """The rank of a change, as far as the edited weight's precision shows it.

    Edited and unedited weights are rounded, which moves their difference by at most ε‖W + ΔW‖ in Frobenius' norm, ε being
    the step after 1: no smaller singular value can be told from rounding.
    """
    rounding = torch.finfo(edited.dtype).eps * float(edited.double().norm())
    return int((torch.linalg.svdvals(delta.double()) > rounding).sum())


def lora_factors(delta: Float[Tensor, "d_out d_in"], rank: int) -> tuple[Factors, float]:
    """A change as two factors of a rank in float32, and the Frobenius norm of what they leave out, relative to the change's."""
    left, values, right = torch.linalg.svd(delta.double(), full_matrices=False)
    root = values[:rank].sqrt()
    whole = float(values.norm())
    error = float(values[rank:].norm()) / whole if whole else 0.0
    return ((root[:, None] * right[:rank]).float(), (left[:, :rank] * root).float()), error


def lora_config(base_model: BaseModelSource, model: LanguageModel, modules: Sequence[str], rank: int) -> dict[str, object]:
    """What `peft` reads beside the factors; their scale is 1."""
    return {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base_model.source,
        "revision": base_model.revision,
        "target_modules": list(modules),
        "r": rank,
        "lora_alpha": rank,  # scale lora_alpha / r = 1
        "lora_dropout": 0.0,
        "bias": "none",
        "fan_in_fan_out": model.adapter.weight_layout == "in_out",
        "inference_mode": True,
    }
