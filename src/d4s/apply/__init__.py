"""One's own model edited with one's own facts: a folder that holds the edited model, its change and its history."""
