"""The first figure: how a study's models were trained, from their folders alone."""

import json
from pathlib import Path

from d4s.artifacts import Artifact, StageJob, write_table
from d4s.config import PretrainSettings
from d4s.figures.figure_stage import learning
from d4s.schemas import CURVE, MODEL_CHECK
from d4s.study_settings import FigureSettings


def trained(store: Path, name: str) -> Artifact:
    folder = store / f"{name}-0123456789"
    curve = [{"step": step, "tokens": 100 * step, "loss": 3 / step, "answer_loss": 1 / step, "learning_rate": 0.1} for step in (1, 2, 3)]
    check = [{"dataset": "world_qa", "wording": wording, "accuracy": 0.9, "n": 10} for wording in ("taught", "withheld")]
    write_table(folder / "curve.parquet", curve, CURVE)
    write_table(folder / "check.parquet", check, MODEL_CHECK)
    StageJob("models", PretrainSettings(), {}, folder).write_manifest(["curve.parquet", "check.parquet"])
    return Artifact.open(folder, "models")


def test_it_is_drawn_from_the_models_alone_and_says_what_it_shows(tmp_path: Path) -> None:
    models = [trained(tmp_path / "store", name) for name in ("mini-m0", "mini-m1")]
    learning(tmp_path / "learning" / "learning.json", models, FigureSettings(format=["svg", "png"], dpi=50))
    made = {path.name for path in (tmp_path / "learning").iterdir()}
    assert made == {"fig_learning.svg", "fig_learning.narrow.svg", "fig_learning.png", "learning.json"}
    (entry,) = json.loads((tmp_path / "learning" / "learning.json").read_text()).values()
    assert "mini-m0, mini-m1" in entry["caption"]
    text = (tmp_path / "learning" / "fig_learning.svg").read_text()
    assert "mini-m1" in text and "World QA" in text
