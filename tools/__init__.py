"""Programs for the upkeep of the repository; run them by `make`, or as `python -m tools.NAME`."""
