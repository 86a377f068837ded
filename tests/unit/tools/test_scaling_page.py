"""The tables of docs/scaling.md: what shards and nodes can gain, from a store whose costs are known."""

import json
from pathlib import Path

import pytest

from tools import scaling_page
from tools.performance_page import insert_between
from tools.scaling_page import BEGIN, END, read, tables


def made(store: Path, kind: str, digest: str, inputs: dict[str, str], cpu: float, parts: int = 1) -> None:
    """An artefact that one call made, two seconds of it start-up."""
    folder = store / kind / f"{kind}-{digest}"
    folder.mkdir(parents=True)
    manifest = {"digest": digest, "name": folder.name, "inputs": inputs}
    for part in range(parts):
        (folder / f"b{part}.json").write_text(json.dumps(manifest))
    (folder / "costs.jsonl").write_text(json.dumps({"stage": kind, "wall_s": 9.0, "cpu_s": cpu, "startup_s": 2.0}) + "\n")


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """A model of 10 s; targets of 14 s in three blocks; edits of 6 s, measured in 4 s and, beside, benchmarked in 3 s."""
    root = tmp_path / "store"
    made(root, "models", "m", {}, 10.0)
    made(root, "targets", "t", {"model": "m"}, 14.0, parts=3)
    made(root, "runs", "r", {"model": "m", "targets": "t"}, 6.0)
    made(root, "measures", "s", {"run": "r"}, 4.0)
    made(root, "benchmarks", "b", {"run": "r"}, 3.0)
    return root


def rows(store: Path, title: str) -> list[list[str]]:
    """The cells of a table, without its head."""
    part = tables(read(store)).partition(f"## {title}\n\n")[2].partition("\n\n")[0]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in part.splitlines()[2:] if line.startswith("|")]


def test_a_shard_starts_anew_and_takes_whole_blocks(store: Path) -> None:
    """Two shards of three blocks take 2 + 12 * 2/3 = 10 s; four are three, and take 2 + 12/3 = 6 s."""
    assert rows(store, "Targets in shards") == [["`targets`", "3", "14.0", "1.40 ×", "2.33 ×", "2.33 ×"]]


def test_only_targets_of_a_sequence_are_divided_and_the_longer_of_its_measures_counts(store: Path) -> None:
    """14 + 6 + 4 = 24 s in one, 10 + 10 = 20 s in two, 6 + 10 = 16 s in more."""
    assert rows(store, "One sequence of edits, from its targets to its scores") == [
        ["`runs`", "14.0", "6.0", "4.0", "3.0", "1.20 ×", "1.50 ×", "1.50 ×"]
    ]


def test_no_number_of_nodes_beats_the_costliest_chain(store: Path) -> None:
    """37 s in all, 34 of them one after another."""
    bounds = {nodes: seconds for nodes, seconds, _ in rows(store, "The whole study")}
    assert (bounds["1"], bounds["2"], bounds["32"]) == ("37", "34", "34")
    assert "`models` 10 → `targets` 14 → `runs` 6 → `measures` 4; 34 of 37" in tables(read(store))


def test_stages_are_summed_with_what_their_starts_cost(store: Path) -> None:
    made(store, "targets", "u", {"model": "m"}, 1.5)
    found = {stage: rest for stage, *rest in rows(store, "What was measured")}
    assert found["`targets`"] == ["2", "16", "4", "40%"]


def test_the_command_writes_the_page_or_says_what_is_wrong(store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = tmp_path / "scaling.md"
    page.write_text(f"before\n{BEGIN}\nold\n{END}\nafter\n")
    monkeypatch.setattr(scaling_page, "PAGE", page)
    monkeypatch.setattr("sys.argv", ["scaling_page", str(store)])
    scaling_page.main()
    assert page.read_text() == f"before\n{BEGIN}\n\n{tables(read(store))}\n{END}\nafter\n"
    monkeypatch.setattr("sys.argv", ["scaling_page", str(tmp_path / "nothing")])
    with pytest.raises(SystemExit, match="no artefacts with costs"):
        scaling_page.main()


def test_the_page_of_the_repository_holds_computed_tables() -> None:
    text = scaling_page.PAGE.read_text()
    assert insert_between(text, "", BEGIN, END) and "| targets | blocks |" in text
