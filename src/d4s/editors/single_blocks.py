"""Names in the tables of single edits, for the stage that writes them and for plans and gathering, which load no model."""

SINGLES_PER_BLOCK = 10  # requests that one job edits alone at least
EDITED = "edited"  # the quantity that every request has once: 1 where its edit is done


def manifests_of_blocks(requests: int) -> tuple[str, ...]:
    """Manifests of the blocks that hold the first requests of a draw."""
    return tuple(f"b{block}.json" for block in range(-(-requests // SINGLES_PER_BLOCK)))


def table_of_block(block: int) -> str:
    """The table of a block."""
    return f"b{block}.singles.parquet"
