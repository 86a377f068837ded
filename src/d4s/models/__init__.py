"""Language models: adapters by architecture, loading, tokens, hooks, and the views that measures read."""
