"""Statistics of a study's gathered results: intervals, curves, comparisons, and the rules that judge claims. Loads no model."""
