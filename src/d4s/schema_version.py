"""The version of what artefacts hold: it stands in every table and manifest, and in every digest."""

SCHEMA_VERSION = 2
