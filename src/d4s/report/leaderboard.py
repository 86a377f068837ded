"""The page of a leaderboard: one self-contained HTML file whose table can be sorted and filtered.

Its numbers are JSON in the page; one script, named by its hash in the page's policy, shows them. Nothing is fetched.
"""

import base64
import hashlib
import json
import logging
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from markupsafe import Markup

from d4s import __version__
from d4s.analysis.display_names import dataset_name, method_name
from d4s.analysis.intervals import IntervalEstimate
from d4s.analysis.leaderboard import Leaderboard, LeaderboardRow
from d4s.analysis.published import Beside, beside_ours
from d4s.analysis.study_results import Results
from d4s.artifacts import write_text
from d4s.editors.presets import PRESETS
from d4s.report.embed import inline_svg
from d4s.report.templates import environment, part
from d4s.tables.tab_leaderboard import VALUES

logger = logging.getLogger(__name__)
FIGURE = "fig_pareto"
DIGITS = 5  # significant ones of a number in the page


def write_leaderboard(path: Path, studies: Sequence[Results]) -> None:
    """Write the leaderboard of one study, or of several as one page."""
    boards = [Leaderboard(results) for results in studies]
    script = part("leaderboard.js")
    page = environment().from_string(part("leaderboard.html")).render(
        css=Markup(part("page.css") + part("leaderboard.css")),
        script=Markup(script),
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        data=Markup(_json(_content(boards))),
        studies=[_study(results) for results in studies],
        figures=[drawn for results in studies for drawn in _figure(results.folder)],
        published=[_published(beside) for board in boards for beside in beside_ours(board)],
        version=__version__,
    )  # fmt: skip
    write_text(path, page)
    logger.info("wrote %s (%d kB)", path, len(page) // 1000)


def _json(content: Mapping[str, Any]) -> str:
    """JSON that no text of can end the element that it stands in."""
    return json.dumps(content, ensure_ascii=False, separators=(",", ":")).replace("<", "\\u003c")


def _content(boards: Sequence[Leaderboard]) -> dict[str, Any]:
    rows, settings = list[dict[str, Any]](), dict[str, int]()
    for board in boards:
        for place in board.places:
            for row in board.rows(place):
                number = settings.setdefault(_settings(board.results, row), len(settings))
                rows.append(_row(row, board.ranking(place).editors, number))
    present = {name for row in rows for name in row["values"]}
    columns = [
        {"key": c.key, "header": c.header, "group": c.group, "best": c.best, "digits": c.digits, "factor": c.factor}
        for c in VALUES
        if c.key in present
    ]
    return {"columns": columns, "rows": rows, "settings": [*settings]}


def _settings(results: Results, row: LeaderboardRow) -> str:
    found = results.editor_settings(row.place.model, row.editor)
    return yaml.safe_dump(dict(found), sort_keys=False) if found else ""


def _row(row: LeaderboardRow, ranked: Sequence[str], settings: int) -> dict[str, Any]:
    place, preset = row.place, PRESETS.get(row.editor)
    return {
        "model": place.model,
        "dataset": dataset_name(place.dataset),
        "edits": place.edits,
        "protocol": place.protocol,
        "editor": row.editor,
        "name": method_name(row.editor),
        "paper": preset.paper if preset else "",
        "address": preset.address if preset else "",
        "state": row.state,
        "values": {name: _numbers(estimate) for name, estimate in row.values.items()},
        "rank": [row.rank.place, row.rank.first, row.rank.last] if row.rank else None,
        "against": {sign: [method_name(name) for name, one in zip(ranked, row.signs, strict=False) if one == sign and name != row.editor]
                    for sign in "+-="} if row.rank else None,
        "front": row.is_on_front,
        "seeds": list(row.seeds),
        "runs": list(row.runs),
        "diverged": row.diverged_at,
        "settings": settings,
    }  # fmt: skip


def _numbers(estimate: IntervalEstimate) -> list[float | None]:
    """Value, lower and upper limit; null where there is none."""
    values = (estimate.value, estimate.low, estimate.high)
    return [float(f"{value:.{DIGITS}g}") if math.isfinite(value) else None for value in values]


def _study(results: Results) -> dict[str, Any]:
    return {
        "name": results.study.get("study", results.folder.name),
        "seeds": results.seeds,
        "models": results.models,
        "datasets": list(dict.fromkeys(dataset_name(panel.dataset) for panel in results.panels)),
        "editors": len({run.editor for run in results.runs}),
        "settings": yaml.safe_dump(dict(results.study), sort_keys=False, allow_unicode=True),
        "versions": {name: ", ".join(found) for name, found in results.provenance.get("versions", {}).items()},
    }


def _figure(study_dir: Path) -> list[dict[str, Any]]:
    """The study's drawing of fronts, for wide and for narrow screens; nothing where it was not drawn."""
    folder = study_dir / "figures"
    paths = [folder / f"{FIGURE}{suffix}" for suffix in (".svg", ".narrow.svg")]
    captions = folder / "figures.json"
    entry = json.loads(captions.read_text(encoding="utf-8")).get(FIGURE, {}) if captions.is_file() else {}
    if "title" not in entry or not all(path.is_file() for path in paths):
        return []
    wide, narrow = (
        inline_svg(path, f"{study_dir.name}-{kind}", entry["title"]) for path, kind in zip(paths, ("wide", "narrow"), strict=True)
    )
    return [{**entry, "wide": wide, "narrow": narrow}]


def _published(beside: Beside) -> dict[str, Any]:
    one = beside.published
    return {
        "one": one,
        "method": method_name(one.preset),
        "protocol": f"{one.regime}, {one.decoding}, {one.match}",
        "theirs": [_percent(one.scores.get(kind)) for kind in ("efficacy", "paraphrase", "locality")],
        "our_model": beside.place.model,
        "our_protocol": f"retained after {beside.place.edits} edits in sequence, {beside.match}",
        "ours": [_estimate(beside.ours.get(kind)) for kind in ("efficacy", "paraphrase", "locality")],
    }


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.1f}"


def _estimate(estimate: IntervalEstimate | None) -> str:
    if estimate is None:
        return "–"
    limits = "" if math.isnan(estimate.low) else f" [{100 * estimate.low:.1f}, {100 * estimate.high:.1f}]"
    return (_percent(estimate.value) + limits).replace("-", "−")
