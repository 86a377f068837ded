"""A study resolved into jobs and hashed names; imports no torch."""
