"""Verdicts on the claims, costs, and the page that people read."""
