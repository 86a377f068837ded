"""Models kept on the way of a training: a family of ordinary models of one shape, from one that knows little to the last."""

from pathlib import PurePath

from d4s.artifacts import Artifact

FIRST_SHARE = 0.1
FOLDER = "kept"


def kept_steps(steps: int, count: int) -> list[int]:
    """Steps after which a model is kept: `count`, evenly from a tenth of the training to its end, fewer where they coincide."""
    spacing = (1 - FIRST_SHARE) / max(1, count - 1)
    return sorted({max(1, round(steps * (1 - number * spacing))) for number in range(count)})


def kept_name(step: int) -> str:
    """The file with the weights after a step."""
    return f"{FOLDER}/{step:06d}.safetensors"


def kept_files(model: Artifact) -> dict[int, str]:
    """Files of the kept models of a trained model's artefact by step; none where none were kept, or the model was not trained here."""
    names = [name for name in model.manifest.files if PurePath(name).parts[0] == FOLDER]
    return {int(PurePath(name).stem): name for name in sorted(names)}
