"""An edited model as a GGUF file: the unedited model's own file with the edited MLP output matrices in its place.

Everything else, the tokenizer, the quantised weights and all metadata, is copied as it is, so whatever runs the unedited file
runs the edited one. Edited matrices are stored in float32, since rounding them again to the file's type would round edits away.
"""

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float

from d4s.digests import cached_sha256
from d4s.errors import ArtifactError, SettingsError
from d4s.models.gguf_folder import gguf_of, open_gguf
from d4s.models.language_model import LanguageModel

if TYPE_CHECKING:
    from gguf import GGUFReader, GGUFWriter

ARCHITECTURE = "general.architecture"
MAX_ERROR = 1e-3
"""Largest difference of an unedited matrix from the file's, relative to its largest entry: half precision has rounded so much."""


def base_file(source: str, given: Path | None) -> Path:
    """The unedited model's GGUF file: the given one, or the one that its folder was dequantised from.

    Raises:
        SettingsError: if none is given and the model comes from no GGUF file.
        ArtifactError: if the file that it was dequantised from has gone or is another.
    """
    if given is not None:
        return given
    found = gguf_of(Path(source))
    if found is None:
        raise SettingsError(f"{source} comes from no GGUF file; give the unedited model's by --gguf FILE: the edits are written into it")
    file, digest = found
    if not file.is_file() or cached_sha256(file) != digest:
        raise ArtifactError(f"{source} was dequantised from {file}, which is not there any more; give the same file by --gguf FILE")
    return file


def write_gguf(out: Path, base: Path, edited: LanguageModel, unedited: Mapping[int, Float[np.ndarray, "d_out d_in"]]) -> None:
    """Write the edited model's weights into a copy of a GGUF file.

    Args:
        out: The file to be written.
        base: The unedited model's file.
        edited: The network as it is now.
        unedited: The unedited matrices of the changed layers, by which the file is recognised.

    Raises:
        ArtifactError: if the file is not whole, or not of the model that was edited.
    """
    import gguf

    reader = open_gguf(base)
    names = {f"blk.{layer}.ffn_down.weight": layer for layer in unedited}
    _refuse_other_model(base, reader, names, unedited)
    writer = gguf.GGUFWriter(out, str(reader.fields[ARCHITECTURE].contents()))
    _copy_metadata(reader, writer)
    for tensor in reader.tensors:
        if tensor.name in names:
            weight = edited.weight(names[tensor.name]).float().cpu().contiguous().numpy()
            writer.add_tensor(tensor.name, weight)
        else:
            writer.add_tensor(tensor.name, tensor.data, raw_dtype=tensor.tensor_type)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _refuse_other_model(
    base: Path, reader: "GGUFReader", names: Mapping[str, int], unedited: Mapping[int, Float[np.ndarray, "d_out d_in"]]
) -> None:
    """Refuse a file whose matrices are not the unedited ones.

    Raises:
        ArtifactError: naming the first that is missing or differs.
    """
    from gguf.quants import dequantize

    tensors = {tensor.name: tensor for tensor in reader.tensors}
    for name, layer in names.items():
        if name not in tensors:
            raise ArtifactError(f"{base} has no tensor {name}; it is not the file of the model that was edited")
        found, wanted = dequantize(tensors[name].data, tensors[name].tensor_type), unedited[layer]
        if found.shape != wanted.shape or np.abs(found - wanted).max() > MAX_ERROR * np.abs(wanted).max():
            raise ArtifactError(f"{name} of {base} is not the matrix of layer {layer} that was edited; give the unedited model's own file")


def _copy_metadata(reader: "GGUFReader", writer: "GGUFWriter", left_out: Collection[str] = (ARCHITECTURE,)) -> None:
    """Copy every entry of a file's metadata; those of the container itself and of the architecture are the writer's own."""
    import gguf

    for name, field in reader.fields.items():
        if name.startswith("GGUF.") or name in left_out:
            continue
        kind = field.types[0]
        writer.add_key_value(name, field.contents(), kind, field.types[-1] if kind == gguf.GGUFValueType.ARRAY else None)
