"""Measures of an edited model: scores, free answers, perplexity, norms, properties of targets, and benchmarks."""
