"""A small world of beliefs, made once."""

from functools import cache
from pathlib import Path
from tempfile import mkdtemp

from d4s.artifacts import StageJob
from d4s.config import COMPOUNDS, BeliefsSettings, PosteriorSettings
from d4s.facts.facts_stage import RecordSource
from d4s.facts.record import Fact
from d4s.world.beliefs import Beliefs, beliefs
from d4s.world.facts_beliefs import read
from d4s.world.posterior import BayesianReader

SMALL = BeliefsSettings(seed=3, subjects=60, objects=(6, 6, 5, 5), samples=10)


def make_beliefs(folder: Path, settings: BeliefsSettings = SMALL) -> Path:
    """A world in a new folder."""
    folder.mkdir(parents=True)
    beliefs(StageJob("worlds", settings, {}, folder))
    return folder


@cache
def small_folder() -> Path:
    """The folder of the small world."""
    return make_beliefs(Path(mkdtemp()) / "beliefs")


@cache
def small_world() -> Beliefs:
    """The small world."""
    return Beliefs.of(small_folder())


@cache
def small_reader() -> BayesianReader:
    """What the Bayesian reader knows of the small world."""
    return BayesianReader.of(small_world(), COMPOUNDS, PosteriorSettings().sweeps)


@cache
def small_requests() -> tuple[Fact, ...]:
    """The requests of the small world."""
    return tuple(read(RecordSource(small_folder(), "requests")).facts)
