"""Why language models get worse as facts are edited into them, and what stops that."""

__version__ = "0.1.0"
