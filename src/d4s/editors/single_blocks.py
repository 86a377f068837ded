"""Names in the tables of single edits, for the stage that writes them and for plans and gathering, which load no model."""

SINGLES_PER_BLOCK = 10  # requests that one job edits alone at least
EDITED = "edited"  # the quantity that every request has once: 1 where its edit is done


def manifests_of_blocks(requests: int) -> tuple[str, ...]:
    """Manifests of the blocks that hold the first requests of a draw."""
    return tuple(f"b{block}.json" for block in range(-(-requests // SINGLES_PER_BLOCK)))


def table_of_block(block: int) -> str:
    """The table of a block."""
    return f"b{block}.singles.parquet"


def singles_role(seed: int, editor: str) -> str:
    """The role of a cell of single edits among the inputs of a stage."""
    return f"singles_{seed}_{editor}"


def cell_of_role(role: str) -> tuple[int, str] | None:
    """Seed and editor of an input that has such a role; None for any other."""
    kind, _, rest = role.partition("_")
    seed, _, editor = rest.partition("_")
    return (int(seed), editor) if kind == "singles" else None
