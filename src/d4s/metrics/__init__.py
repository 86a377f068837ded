"""Scores, generation, retention, perplexity, norms, objectives and the bridge to lm-evaluation-harness."""
