"""Editors: settings, presets, the parts of locate-then-edit, other families, states and ledgers.

Terms and symbols: docs/notation.md.
"""
