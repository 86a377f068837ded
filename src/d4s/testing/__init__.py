"""Conformance suites that a new editor, reader or writer of questions is held against; its own tests call them."""
