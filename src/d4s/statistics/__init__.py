"""Second moments of keys over text."""
