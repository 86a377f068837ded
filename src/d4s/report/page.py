"""Stage `report`: one self-contained HTML page with verdicts, figures, tables, examples, settings and costs.

Everything is inline: the page makes no request and runs no script, and text that comes from data is escaped.
"""

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from markupsafe import Markup

from d4s import __version__
from d4s.analysis.claim_groups import PAPERS
from d4s.analysis.display_names import dataset_name, method_name, sorted_editors
from d4s.analysis.example_answers import examples
from d4s.analysis.shortcomings import shortcomings
from d4s.analysis.shown_groups import shown_groups
from d4s.analysis.single_edits import SingleEdits
from d4s.analysis.study_results import Results
from d4s.analysis.verdicts import show, show_interval
from d4s.artifacts import write_text
from d4s.errors import ArtifactError
from d4s.figures.figure_stage import figures_of
from d4s.report.embed import data_uri, inline_svg
from d4s.report.leaderboard import write_leaderboard
from d4s.report.templates import environment, part
from d4s.study.summarize import CRITERIA_FILE
from d4s.study_settings import Study
from d4s.tables.table import TableSkipped
from d4s.tables.table_stage import tables_of

logger = logging.getLogger(__name__)
VERDICTS = ("holds", "does not hold", "undecided", "not measured")
COSTS_TABLE = "tab_costs"
LEADERBOARD_FILE = "index.html"


def report(study_dir: Path, study: Study) -> None:
    """Write report.html from the study's gathered data, claims and figures, and index.html where it asks for a leaderboard."""
    results = Results(study_dir)
    verdicts = _read(study_dir / "claims.json", "claims")
    figure_captions = _read(study_dir / "figures" / "figures.json", "figures")
    figure_captions = {name: figure_captions[name] for name in figures_of(shown_groups(results)) if name in figure_captions}
    learning_captions = _read(study_dir / "learning" / "learning.json", "learning") if (study_dir / "learning").is_dir() else {}
    page = environment().from_string(part("page.html")).render(
        css=Markup(part("page.css")),
        study=study,
        papers=[PAPERS[group] for group in results.claim_groups],
        version=__version__,
        summary=_summary(results),
        verdicts=[_render_verdict(entry) for entry in verdicts],
        counts={verdict: sum(entry["verdict"] == verdict for entry in verdicts) for verdict in VERDICTS},
        shortcomings=shortcomings(results, verdicts, _criteria(study_dir)),
        figures=[
            *(_figure(study_dir / "figures", name, entry) for name, entry in figure_captions.items() if "title" in entry),
            *(_figure(study_dir / "learning", name, entry) for name, entry in learning_captions.items()),
        ],
        skipped={name: entry["skipped"] for name, entry in figure_captions.items() if "skipped" in entry},
        tables=_tables(results),
        criteria=_criteria(study_dir),
        costs=_table(results, COSTS_TABLE),
        items=_items(results),
        examples=examples(results),
        settings=yaml.safe_dump(study.model_dump(mode="json"), sort_keys=False, allow_unicode=True),
        provenance=_provenance(study_dir),
    )  # fmt: skip
    write_text(study_dir / "report.html", page)
    logger.info("wrote %s (%d kB)", study_dir / "report.html", len(page) // 1000)
    if study.leaderboard:
        write_leaderboard(study_dir / LEADERBOARD_FILE, [results])


def _read(path: Path, stage: str) -> Any:
    """The content of a JSON file written by another stage.

    Raises:
        ArtifactError: if it is not there.
    """
    if not path.is_file():
        raise ArtifactError(f"{path} does not exist; run `d4s {stage}` first")
    return json.loads(path.read_text(encoding="utf-8"))


def _items(results: Results) -> dict[str, list[dict[Any, Any]]]:
    """The first items of each data set, by its name and the writer of its questions."""
    found: dict[str, list[dict[Any, Any]]] = {}
    for row in results.items.to_dict(orient="records"):
        found.setdefault(f"{dataset_name(row['dataset'])} ({row['writer']})", []).append(row)
    return found


def _criteria(study_dir: Path) -> dict[str, Any]:
    """The editor-neutral criteria of the models that were trained on the world; empty where there are none."""
    path = study_dir / CRITERIA_FILE
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def _summary(results: Results) -> dict[str, Any]:
    """Names and counts that describe the study."""
    singles = SingleEdits.of(results)
    alone = [cell.editor.partition("@")[0] for cell in singles.cells]
    methods = sorted_editors([*alone, *(editor for panel in results.panels for editor in results.editors(panel))])
    return {
        "models": results.models,
        "datasets": list(dict.fromkeys(dataset_name(panel.dataset) for panel in (*results.panels, *singles.panels))),
        "methods": list(map(method_name, methods)),
        "longest": max(map(int, results.index["step"]), default=0),
        "single": max((len(singles.statuses(cell)) for cell in singles.cells), default=0),
        "runs": len(results.runs) + len(singles.cells),
        "seeds": results.seeds,
    }


def _render_verdict(entry: Mapping[str, Any]) -> dict[str, Any]:
    """A verdict with its numbers as text, and its effect as positions on a strip."""
    shown = {**entry, "css": entry["verdict"].replace(" ", "-"), "conditions": [_render_numbers(c) for c in entry["conditions"]]}
    return shown | (_render_numbers(entry) if entry["effect"] is not None else {"number": "", "interval": "", "strip": None})


def _render_numbers(entry: Mapping[str, Any]) -> dict[str, Any]:
    unit, (low, high) = entry["unit"], entry["ci"]
    return {
        **entry,
        "number": show(entry["effect"], unit),
        "interval": show_interval(low, high, unit),
        "needed": show(entry["margin"], unit, signed=False),
        "strip": _strip(low, entry["effect"], high, entry["margin"]),
    }


def _strip(low: float, value: float, high: float, margin: float) -> dict[str, float]:
    """Positions of interval, effect and margin on a strip from 0 to 100."""
    left, right = min(low, margin, 0.0), max(high, margin, 0.0)
    width = (right - left) or 1.0
    places = {"low": low, "value": value, "high": high, "margin": margin}
    return {name: round(5 + 90 * (at - left) / width, 1) for name, at in places.items()}


def _figure(folder: Path, name: str, entry: Mapping[str, str]) -> dict[str, Any]:
    wide, narrow, png = (folder / f"{name}{suffix}" for suffix in (".svg", ".narrow.svg", ".png"))
    figure: dict[str, Any] = {"name": name, "title": entry["title"], "caption": entry["caption"], "png": "", "wide": "", "narrow": ""}
    if wide.is_file() and narrow.is_file():
        return figure | {
            "wide": inline_svg(wide, f"{name}-wide", entry["title"]),
            "narrow": inline_svg(narrow, f"{name}-narrow", entry["title"]),
        }
    if png.is_file():
        return figure | {"png": data_uri(png)}
    return figure | {"files": [f"{folder.name}/{path.name}" for path in sorted(folder.glob(f"{name}.*"))]}


def _tables(results: Results) -> list[dict[str, Any]]:
    names = [name for name in tables_of(shown_groups(results)) if name != COSTS_TABLE]
    return [found for name in names if (found := _table(results, name))]


def _table(results: Results, name: str) -> dict[str, Any] | None:
    try:
        return {"name": name, "table": tables_of(shown_groups(results))[name](results)}
    except TableSkipped:
        return None


def _provenance(study_dir: Path) -> dict[str, Any]:
    """Library versions and resolved editor settings, where `gather` wrote them."""
    path = study_dir / "provenance.json"
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {"versions": {}, "editors": {}}
    editors = {name: yaml.safe_dump(settings, sort_keys=False) for name, settings in found["editors"].items()}
    return {"versions": {library: ", ".join(versions) for library, versions in found["versions"].items()}, "editors": editors}
