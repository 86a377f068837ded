"""A study as plain values."""

STUDY = {
    "study": "toy",
    "models": {"mini": {"source": "world"}},
    "datasets": {"world_qa": {"source": "world", "style": "qa"}, "tf": {"source": "questions", "form": "true_false"}},
    "grid": [{"models": ["mini"], "datasets": ["world_qa"], "editors": ["memit"], "lengths": [10, 50]}],
}
