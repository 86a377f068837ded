"""The command line: one subcommand per rule of the workflow, and the commands that people use. No science here."""

from d4s.cli import (
    data_commands,
    edit_commands,
    model_commands,
    question_commands,
    run_command,
    settings_command,
    stage_commands,
    study_commands,
)
from d4s.cli.app import app

__all__ = [
    "app",
    "data_commands",
    "edit_commands",
    "model_commands",
    "question_commands",
    "run_command",
    "settings_command",
    "stage_commands",
    "study_commands",
]
