"""How much goes through a model at once; what plans of memory count with. Nothing here imports torch."""

TOKENS_ON_CPU = 512
"""Tokens of a pass on a processor: what stays in a core's caches."""
TOKENS_ON_ACCELERATORS = 16_384
"""Tokens of a pass on any other device."""
LOGITS_PER_CHUNK = 2**26
"""Entries of logits that are computed at once."""

LONGEST_ROW = 256
"""Tokens of a row of text that is read, or that a model writes, outside of studies."""
