"""Tables of a study, one module each, made from its gathered Parquet files."""
