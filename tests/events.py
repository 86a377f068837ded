"""Events as the writers of questions get them."""

import pandas as pd


def frame(*rows: tuple[str, str, str]) -> pd.DataFrame:
    return pd.DataFrame(
        [
            {"event_id": f"e{k}", "head": head, "relation": relation, "tail": tail, "bystander": False, "source": "test"}
            for k, (head, relation, tail) in enumerate(rows)
        ]
    )
