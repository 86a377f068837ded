"""Names of what stages write for a number of edits."""


def length_of(manifest: str) -> int:
    """The number of edits that a manifest `nN.json` stands for.

    Raises:
        ValueError: if it is named otherwise.
    """
    stem = manifest.removesuffix(".json")
    if not (stem.startswith("n") and stem[1:].isdigit()):
        raise ValueError(f"outputs of this stage are named nLENGTH.json, found {manifest!r}")
    return int(stem[1:])
