"""Writes a table as CSV and Parquet (full numbers) and as LaTeX (as printed: booktabs, best bold, second underlined)."""

from pathlib import Path

import pandas as pd
import pyarrow as pa

from d4s.artifacts import write_table, write_text
from d4s.schema_version import SCHEMA_VERSION
from d4s.tables.table import Table, TableCell, TableRow

_ESCAPES = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "−": "$-$", "±": r"$\pm$", "×": r"$\times$", "–": "--",
}  # fmt: skip


def write(table: Table, folder: Path, name: str) -> None:
    """Write a table in all three formats."""
    frame = table.frame.reset_index(drop=True)
    schema = pa.Schema.from_pandas(frame, preserve_index=False).with_metadata({"d4s_schema_version": str(SCHEMA_VERSION)})
    write_table(folder / f"{name}.parquet", frame, schema)
    write_text(folder / f"{name}.csv", _csv(frame))
    write_text(folder / f"{name}.tex", latex(table, name))


def _csv(frame: pd.DataFrame) -> str:
    return frame.to_csv(index=False, float_format="%.6g", lineterminator="\n")


def escape(text: str) -> str:
    """Text with every character that LaTeX would read as a command escaped."""
    return "".join(_ESCAPES.get(character, character) for character in text)


def latex(table: Table, name: str) -> str:
    """A LaTeX table environment for `booktabs`."""
    labels = len(table.labels)
    lines = [
        r"% needs \usepackage{booktabs}",
        r"\begin{table}[t]",
        r"\centering\footnotesize\setlength{\tabcolsep}{3pt}",
        rf"\caption{{{escape(table.title)}. {escape(table.caption)}}}",
        rf"\label{{{name.replace('_', ':', 1)}}}",
        rf"\begin{{tabular}}{{{'l' * labels}{'r' * len(table.columns)}}}",
        r"\toprule",
        *_heading(table),
        r"\midrule",
    ]
    blocks = list(table.blocks())
    for number, (block, rows) in enumerate(blocks):
        if number:
            lines.append(r"\midrule")
        if len(blocks) > 1:
            lines.append(rf"\multicolumn{{{labels + len(table.columns)}}}{{l}}{{\emph{{{escape(block)}}}}} \\")
        lines += _rows(rows)
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}", r"\end{table}"]) + "\n"


def _heading(table: Table) -> list[str]:
    labels = len(table.labels)
    names = " & ".join([*(escape(label.capitalize()) for label in table.labels), *(escape(c.header) for c in table.columns)]) + r" \\"
    if not any(group for group, _ in table.groups()):
        return [names]
    spans, rules, at = ["" for _ in range(labels)], [], labels + 1
    for group, width in table.groups():
        spans.append(rf"\multicolumn{{{width}}}{{c}}{{{escape(group)}}}")
        rules.append(rf"\cmidrule(lr){{{at}-{at + width - 1}}}" if group else "")
        at += width
    return [" & ".join(spans) + r" \\", "".join(rules), names]


def _rows(rows: list[TableRow]) -> list[str]:
    lines = []
    for before, row in zip([None, *rows], rows, strict=False):
        if before is not None and row.reference and not before.reference:
            lines.append(r"\addlinespace")
        lines.append(" & ".join([*(_label(label, row.reference) for label in row.labels), *(_number(cell) for cell in row.cells)]) + r" \\")
    return lines


def _label(label: str, reference: bool) -> str:
    return rf"\textit{{{escape(label)}}}" if reference else escape(label)


def _number(cell: TableCell) -> str:
    number = escape(cell.text)
    marked = {"best": rf"\textbf{{{number}}}", "second": rf"\underline{{{number}}}", "": number}[cell.mark]
    return marked + (rf"{{\tiny\,{escape(cell.half_width)}}}" if cell.half_width else "")
