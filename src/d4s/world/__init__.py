"""The embedded world: people with relations, if-then events, and benchmark items about them."""
