"""Tables, one per file, from the summary alone."""
