"""Commands that want the same edited folders at the same time: readers go together, whoever changes or makes one is alone."""

from pathlib import Path

import pytest

from d4s.apply.change import merge, undo
from d4s.apply.export import export
from d4s.errors import D4SError
from d4s.locks import folder_lock
from tests.applying import FACTS, applied, fact_file, saved_model


def test_nobody_changes_what_a_merge_or_an_export_reads_nor_makes_the_same_folder(tmp_path: Path) -> None:
    model, out = saved_model(tmp_path / "base"), tmp_path / "out"
    one, other = tmp_path / "one", tmp_path / "other"
    for folder, facts in ((one, FACTS[:1]), (other, FACTS[1:2])):
        applied(model, fact_file(tmp_path / "facts.csv", facts), folder, "rome")
    with folder_lock(one), pytest.raises(D4SError, match=r"at work in .*one"):
        export(one, "delta", out, None, "cpu")
    with folder_lock(other), pytest.raises(D4SError, match=r"at work in .*other"):
        merge(one, other, out, prefer_second=False, device="cpu")
    with folder_lock(out):
        with pytest.raises(D4SError, match=r"at work in .*out"):
            export(one, "delta", out, None, "cpu")
        with pytest.raises(D4SError, match=r"at work in .*out"):
            merge(one, other, out, prefer_second=False, device="cpu")
    with folder_lock(one, shared=True), pytest.raises(D4SError, match=r"at work in .*one"):
        undo(one, [1], "cpu")
    with folder_lock(one, shared=True):
        export(one, "delta", out, None, "cpu")
    assert sorted(path.name for path in tmp_path.iterdir() if path.is_dir()) == ["base", "one", "other", "out"]
