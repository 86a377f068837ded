"""Draw which rule feeds which as docs/images/rulegraph.svg, from what Snakemake says in the language of Graphviz, without Graphviz.

snakemake --rulegraph | python -m tools.rulegraph docs/images/rulegraph.svg

Rules stand in columns, each right of all that it waits for. An edge that other edges imply is left out.
"""

import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

NODE, EDGE = re.compile(r'^\s*(\d+)\[label = "([^"]+)"', re.MULTILINE), re.compile(r"^\s*(\d+) -> (\d+)", re.MULTILINE)
ENDS = frozenset({"all", "inputs", "runs", "measures"})  # targets that make nothing
BOX, GAP, MARGIN, SWEEPS = (108, 26), (44, 20), 8, 8  # sizes in pixels; rounds of ordering
STYLE = (
    "rect{fill:#eef3f8;stroke:#5b7fa3;rx:5} path{fill:none;stroke:#8795a3} "
    "text{font:13px sans-serif;text-anchor:middle;dominant-baseline:central;fill:#1d2b38}"
)

Graph = Mapping[str, frozenset[str]]  # what each rule waits for


def read_graph(dot: str) -> Graph:
    """The rules and what each of them waits for, without edges that others imply."""
    names = {number: label.partition("\\n")[0] for number, label in NODE.findall(dot)}
    waits: dict[str, set[str]] = {name: set() for name in names.values() if name not in ENDS}
    for source, target in EDGE.findall(dot):
        if names[target] in waits and names[source] != names[target]:
            waits[names[target]].add(names[source])
    return {
        name: frozenset(one for one in given if not any(one in _upstream(waits, other) for other in given)) for name, given in waits.items()
    }


def _upstream(waits: Mapping[str, set[str]], name: str) -> set[str]:
    """Everything that a rule waits for, directly or not."""
    return set[str]().union(*({one, *_upstream(waits, one)} for one in waits[name]))


def columns_of(graph: Graph) -> list[list[str]]:
    """Rules by the longest way to them, each column ordered so that few edges cross."""
    depths: dict[str, int] = {}

    def depth(name: str) -> int:
        depths[name] = max((depth(one) + 1 for one in graph[name]), default=0)
        return depths[name]

    for name in graph:
        depth(name)
    columns = [[name for name in graph if depths[name] == column] for column in range(max(depths.values()) + 1)]
    feeds = {name: [other for other, given in graph.items() if name in given] for name in graph}
    for sweep in range(SWEEPS):
        places = {name: place - len(column) / 2 for column in columns for place, name in enumerate(column)}
        neighbours = feeds if sweep % 2 else {name: sorted(given) for name, given in graph.items()}
        for column in columns:
            column.sort(
                key=lambda name: sum(places[one] for one in neighbours[name]) / len(neighbours[name]) if neighbours[name] else places[name]
            )
    return columns


def draw(graph: Graph, columns: Sequence[Sequence[str]]) -> str:
    """The graph as SVG."""
    (width, height), (across, down) = BOX, GAP
    tallest = max(map(len, columns))
    places = {
        name: (MARGIN + number * (width + across), MARGIN + (row + (tallest - len(column)) / 2) * (height + down))
        for number, column in enumerate(columns)
        for row, name in enumerate(column)
    }
    size = (2 * MARGIN + len(columns) * (width + across) - across, 2 * MARGIN + tallest * (height + down) - down)
    lines = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {size[0]} {size[1]}"><style>{STYLE}</style>']
    for name, given in graph.items():
        for source in sorted(given):
            (x0, y0), (x1, y1) = places[source], places[name]
            start, end, bend = (x0 + width, y0 + height / 2), (x1, y1 + height / 2), across / 2
            lines.append(f'<path d="M{start[0]} {start[1]}C{start[0] + bend} {start[1]} {end[0] - bend} {end[1]} {end[0]} {end[1]}"/>')
    for name, (x, y) in places.items():
        lines.append(
            f'<rect x="{x}" y="{y}" width="{width}" height="{height}"/><text x="{x + width / 2}" y="{y + height / 2}">{name}</text>'
        )
    return "\n".join([*lines, "</svg>", ""])


def main() -> None:
    """Read the graph from standard input and write the drawing."""
    graph = read_graph(sys.stdin.read())
    Path(sys.argv[1]).write_text(draw(graph, columns_of(graph)), encoding="utf-8")


if __name__ == "__main__":
    main()
