"""Results of a made-up study, gathered once for the tests that read them."""

from pathlib import Path

import pytest

from d4s.analysis.claims import claims
from d4s.analysis.study_results import Results
from d4s.figures.figure_stage import figures
from d4s.study_settings import FigureSettings
from d4s.tables.table_stage import tables
from tests.belief_study import add_beliefs
from tests.synthetic import CONTROLS, FORM_CONTROLS, Made, write_study

SHOWN = ("unedited", "rome", "memit", "memit_seq", "d4s", "d4s_frozen", "one_time_batch", *CONTROLS)


@pytest.fixture(scope="session")
def study_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study's folder as `summarize` leaves it."""
    whole = Made()
    some = {name: method for name, method in whole.methods.items() if name in SHOWN}
    return add_beliefs(write_study(tmp_path_factory.mktemp("study"), Made(methods=some, lengths=(10, 100, 300), controls=FORM_CONTROLS)))


@pytest.fixture(scope="session")
def results(study_dir: Path) -> Results:
    """The same, opened."""
    return Results(study_dir)


@pytest.fixture(scope="session")
def judged_dir(study_dir: Path) -> Path:
    """The same with claims."""
    claims(study_dir)
    return study_dir


@pytest.fixture(scope="session")
def finished_dir(judged_dir: Path) -> Path:
    """The same with tables and figures."""
    tables(judged_dir)
    figures(judged_dir, FigureSettings(format=("svg",)))
    return judged_dir
