"""Facts: the common record, one reader per data set, problems and rejects."""
