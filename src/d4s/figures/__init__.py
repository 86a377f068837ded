"""Figures of a study, one module each, drawn from its gathered Parquet files."""
