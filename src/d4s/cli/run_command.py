"""`d4s run`: a study from nothing to its report by Snakemake, with what is done, what runs and how long it still takes."""

import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from d4s.cli.app import StudyOption, command, limit_threads, parse_study
from d4s.errors import SettingsError

if TYPE_CHECKING:
    from d4s.resources.progress import ProgressMonitor, StudyProgress

POLL_SECONDS, LINE_SECONDS = 1.0, 20.0  # seconds from look to look, and from line to line where there is no terminal
LOGS = Path("results/logs")
PARAMS = Path("params.yaml")  # what Snakemake reads where no other file is named
STOPPED_STATUS = 130
RESERVED_OPTIONS = ("--configfile", "--configfiles", "--config", "-C", "--directory", "-d", "--snakefile", "-s")
Arguments = Annotated[list[str] | None, typer.Argument(help="Arguments for Snakemake, after `--`; --cores all when omitted.")]


@command()
def run(study: StudyOption = "params.yaml", arguments: Arguments = None) -> None:
    """Make a study with Snakemake and show how far it is: Ctrl-C ends it, and the same command continues it."""
    began, extra_arguments = time.monotonic(), arguments or []
    typer.echo(f"{study}: looking at what is there", err=True)
    limit_threads()
    snakemake_arguments = _snakemake_arguments(study, extra_arguments)
    with _interrupts():
        try:
            status = _run(study, snakemake_arguments, began)
        except KeyboardInterrupt:
            typer.echo("stopped; the same command continues where this one was", err=True)
            status = STOPPED_STATUS
    raise typer.Exit(status)


def _snakemake_arguments(study: str, extra_arguments: Sequence[str]) -> list[str]:
    """Snakemake's arguments.

    Raises:
        SettingsError: where this is no checkout, or an argument names another study than was given.
    """
    if not Path("Snakefile").is_file():
        raise SettingsError(f"{Path.cwd()} holds no Snakefile; run this in the folder of the checkout")
    if not Path(study).is_file():
        raise SettingsError(f"--study takes the file of a study, found {study!r}")
    if own := [one for one in extra_arguments if one.partition("=")[0] in RESERVED_OPTIONS]:
        raise SettingsError(f"{own[0]} would change the study behind this command's back; write a file and name it by --study")
    has_cores = any(one.startswith(("--cores", "-c", "--jobs", "-j", "--profile")) for one in extra_arguments)
    named = [] if Path(study).resolve() == PARAMS.resolve() else ["--configfile", study]
    return [*([] if has_cores else ["--cores", "all"]), *extra_arguments, *named]


@contextmanager
def _interrupts() -> Iterator[None]:
    """Let a closed terminal or a plain kill end the command like Ctrl-C."""

    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    names = (signal.SIGTERM, signal.SIGHUP)
    before = [signal.signal(name, interrupt) for name in names]
    try:
        yield
    finally:
        for name, handler in zip(names, before, strict=True):
            signal.signal(name, handler)


def _run(study: str, arguments: list[str], began: float) -> int:
    """Run to the end; Snakemake's exit status."""
    from d4s.resources.machine_estimates import estimate_on_machine
    from d4s.resources.progress import ProgressMonitor, empty_folder, slots_of
    from d4s.study.resolve import resolve, results_folder
    from d4s.study.snakemake_process import end, failure_report, start, warnings

    plan = resolve(parse_study(study))
    results, logs = results_folder(plan.study), LOGS / plan.study.study
    log = logs / "snakemake.log"
    process = start(arguments, log, empty_folder(logs / "progress"))
    try:
        watch = ProgressMonitor(estimate_on_machine(plan), logs / "progress", slots_of(arguments))
        was_complete = watch.poll().share == 1
        if was_complete:
            typer.echo("everything is there; Snakemake looks whether anything is out of date", err=True)
        status = _follow(watch, process, results)
    finally:
        end(process)
    for line in warnings(log):
        typer.echo(f"Snakemake: {line}", err=True)
    if status:
        for line in failure_report(log):
            typer.echo(line, err=True)
        return status
    if was_complete and "Nothing to be done" in log.read_text(encoding="utf-8", errors="replace"):
        typer.echo("nothing was to be done", err=True)
    report, elapsed = (results / "report.html").resolve(), round(time.monotonic() - began)
    typer.echo(f"{f'report: {report}' if report.is_file() else 'done'} (took {elapsed // 60} min {elapsed % 60} s)")
    return 0


def _follow(watch: "ProgressMonitor", process: "subprocess.Popen[bytes]", results: Path) -> int:
    """Look at a study until Snakemake has ended, and show it; Snakemake's exit status."""
    began, has_figure = time.time(), False
    with _bar_display() if sys.stderr.isatty() else _line_display() as show:
        while True:
            try:
                return process.wait(POLL_SECONDS)
            except subprocess.TimeoutExpired:
                view = watch.poll()
                figure = "" if has_figure else next(_figures(results, began), "")
                has_figure = has_figure or bool(figure)
                show(view, f"first figure: {figure}" if figure else "")


def _figures(results: Path, began: float) -> Iterator[str]:
    """Figures of a study that were drawn in this run."""
    for path in sorted(results.glob("*/fig_*")):
        if ".narrow" not in path.suffixes and path.stat().st_mtime >= began:
            yield str(path.resolve())


ShowView = Callable[["StudyProgress", str], None]


@contextmanager
def _line_display() -> Iterator[ShowView]:
    """Lines for a log: one at the start, then one after some seconds, and one for each thing that is told once."""
    last = -LINE_SECONDS

    def show(view: "StudyProgress", message: str) -> None:
        nonlocal last
        if message:
            typer.echo(f"{time.strftime('%H:%M:%S')}  {message}", err=True)
        if time.monotonic() - last >= LINE_SECONDS:
            last = time.monotonic()
            typer.echo(format_line(view, time.strftime("%H:%M:%S")), err=True)

    yield show


def format_line(view: "StudyProgress", clock: str) -> str:
    """A view in one line, as `12:03:10  37 %  edit mini.world_qa.memit.s1 41 %; about 6 min left`."""
    at_work = ", ".join(map(str, view.running)) or f"{view.done} of {view.steps} steps are done, none at work"
    from d4s.resources.progress import percent

    return f"{clock} {percent(view.share):>5}  {at_work}; {format_duration(view.left)} left"


def format_duration(seconds: float) -> str:
    """A length of time as people say it, as exact as it can be known."""
    minutes = round(seconds / 60)
    if minutes < 1:
        return "less than a minute"
    return f"about {minutes} min" if minutes < 120 else f"about {minutes / 60:.1f} h"


@contextmanager
def _bar_display() -> Iterator[ShowView]:
    """A bar for the study and one for each job at work, on a terminal."""
    from rich.console import Group
    from rich.live import Live
    from rich.progress_bar import ProgressBar
    from rich.table import Table
    from rich.text import Text

    from d4s.resources.progress import percent
    from d4s.terminal import console

    def render(view: "StudyProgress") -> Group:
        table = Table.grid(padding=(0, 1))
        table.add_row(Text("the study"), ProgressBar(total=1, completed=view.share, width=30), Text(f"{percent(view.share):>5}"))
        for one in view.running:
            bar = ProgressBar(total=1, completed=one.share or 0, width=30)
            table.add_row(Text(f"  {one.stage} {one.name}"), bar, Text(f"{one.progress_text:>5}"))
        return Group(table, Text(f"{view.done} of {view.steps} steps are done; {format_duration(view.left)} left"))

    screen = console(stderr=True)
    with Live(Text("Snakemake is starting"), console=screen, auto_refresh=False, transient=True) as live:

        def show(view: "StudyProgress", message: str) -> None:
            if message:
                screen.print(Text(message))
            live.update(render(view), refresh=True)

        yield show
