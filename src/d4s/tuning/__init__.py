"""Settings of editors for a model, found by measurement."""
