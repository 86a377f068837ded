"""The command line: one subcommand per rule of the workflow, and the verbs that people use. No science here."""

from d4s.cli import data, edits, jobs, model, questions, results, run
from d4s.cli.app import app

__all__ = ["app", "data", "edits", "jobs", "model", "questions", "results", "run"]
