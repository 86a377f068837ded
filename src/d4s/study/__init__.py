"""A study: resolved into jobs with hashed names, run by Snakemake, gathered; imports no torch."""
