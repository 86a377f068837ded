"""Judges of free answers: a rule in the place of one, or a language model, live or from recorded answers."""
