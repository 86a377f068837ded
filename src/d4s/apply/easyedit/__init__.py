"""EasyEdit's hyperparameter files as settings of ours: rules per key, a table of its algorithms, and the translation."""
