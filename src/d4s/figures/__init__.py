"""Figures, one per file, from Parquet alone."""
