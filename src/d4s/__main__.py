"""`python -m d4s STAGE`: the form in which workflow rules call the stages."""

from d4s.cli import app

app()
