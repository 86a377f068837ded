from typing import Any

import pytest
import torch
from torch import Tensor

from d4s.editors.editor_settings import resolve
from d4s.editors.melo import Clusters, MeloEditor
from d4s.editors.protocol import EditSelection, EditStatus, NotRemovable, Prepared
from d4s.editors.side_settings import Melo
from tests.oracle.plain import requests_of

SETTINGS = Melo(layer=1, radius=1.0)
A, B = (1, 2), (1, 3)


def clusters_of(*added: tuple[list[float], tuple[int, ...]], radius: float = 1.0) -> Clusters:
    """Clusters of keys in a plane with their targets."""
    found = Clusters(SETTINGS.model_copy(update={"radius": radius}), torch.zeros(0, 2))
    for key, label in added:
        found.add(torch.tensor(key), label)
    return found


def answers(clusters: Clusters, *queries: list[float]) -> list[int]:
    """The keys that answer queries."""
    return clusters.nearest_keys(torch.tensor(queries)).tolist()


def test_a_far_key_has_a_cluster_of_its_own_and_beyond_both_nothing_answers() -> None:
    clusters = clusters_of(([0.0, 0.0], A), ([3.0, 0.0], A))
    assert [cluster.radius for cluster in clusters] == [1.0, 1.0]
    assert answers(clusters, [0.9, 0.0], [1.1, 0.0], [2.5, 0.0], [3.0, 1.5]) == [0, -1, 1, -1]


def test_a_near_key_of_the_same_target_joins_and_the_nearest_member_answers() -> None:
    clusters = clusters_of(([0.0, 0.0], A), ([1.6, 0.0], A), ([0.8, 1.5], A))
    (cluster,) = clusters
    torch.testing.assert_close(cluster.centre, torch.tensor([0.8, 0.5]))
    assert cluster.members == (0, 1, 2) and cluster.radius == pytest.approx(1.0, rel=1e-3)
    assert answers(clusters, [0.1, 0.1], [1.5, 0.1], [0.8, 1.4], [0.8, 1.6]) == [0, 1, 2, -1]


def test_a_cluster_reaches_its_furthest_key() -> None:
    (cluster,) = clusters_of(([0.0, 0.0], A), ([2.0, 0.0], A), ([3.0, 0.0], A))
    assert cluster.radius == pytest.approx(5 / 3, rel=1e-3)


def test_a_near_key_of_another_target_halves_both_radii_and_the_older_cluster_forgets_what_is_beyond() -> None:
    clusters = clusters_of(([0.0, 0.0], A), ([1.6, 0.0], A), ([0.8, 1.0], B))
    older, newer = clusters
    assert older.radius == newer.radius == pytest.approx(0.5)
    assert (older.members, newer.members) == ((), (2,))
    assert answers(clusters, [0.0, 0.0], [0.8, 0.1], [0.8, 0.9]) == [-1, -1, 2]


def test_at_the_same_place_the_later_target_answers() -> None:
    clusters = clusters_of(([1.0, 0.0], A), ([1.0, 0.0], B))
    (cluster,) = clusters
    assert (cluster.label, cluster.radius) == (B, 1.0) and answers(clusters, [1.0, 0.0]) == [1]


def test_of_equally_near_keys_the_latest_answers() -> None:
    assert answers(clusters_of(([1.0, 0.0], A), ([1.0, 0.0], A)), [1.0, 0.0]) == [1]


def test_a_request_is_learned_and_the_log_says_so(tiny_model: Any) -> None:
    settings = Melo(layer=1, radius=0.1, lr=0.05, alpha=20.0, steps=40)
    model, editor = tiny_model(width=64, scale=6.0), MeloEditor(settings)
    with editor.editing(model, Prepared(), editor.start(model, Prepared())) as session:
        logs = [{quantity: value for quantity, _, value in session.step([request], None).values} for request in requests_of(2)]
    assert logs[0]["target_probability_after"] > 0.5 > logs[0]["target_probability_before"]
    assert [log["clusters"] for log in logs] == [1.0, 2.0] and logs[0]["side_norm"] > 0


def test_factors_are_drawn_from_the_facts_of_a_batch(tiny_model: Any) -> None:
    model, editor, requests = tiny_model(), MeloEditor(SETTINGS.model_copy(update={"lr": 1e-30, "steps": 1, "batch": 2})), requests_of(3)

    def drawn(batch: Any) -> Tensor:
        with editor.editing(model, Prepared(), editor.start(model, Prepared())) as session:
            session.step(batch, None)
            return session.state().records[0]["down"]

    assert torch.equal(drawn(requests[:2]), drawn(requests[:2])) and not torch.equal(drawn(requests[:2]), drawn(requests[1:]))
    assert float(drawn(requests[:2]).abs().max()) <= 1 / 8  # 1/√64


def test_a_batch_can_only_be_taken_out_as_a_whole() -> None:
    removed, kept = (EditStatus(number, f"fact{number}", was_active=True, is_active=bool(number)) for number in (0, 1))
    with pytest.raises(NotRemovable, match="one batch"):
        MeloEditor(SETTINGS).check_removable(EditSelection(({},), [[removed, kept]]))
    MeloEditor(SETTINGS).check_removable(EditSelection(({}, {}), [[removed], [kept]]))


def test_defaults_are_the_released_rates() -> None:
    assert (SETTINGS.rank, SETTINGS.steps, SETTINGS.lr, SETTINGS.halve_every) == (2, 50, 1e-3, 20)
    assert resolve("melo", {}, "mini").layer == resolve("grace", {}, "mini").layer
