"""`python -m d4s VERB`: the form in which workflow rules call the verbs."""

from d4s.cli import app

app()
