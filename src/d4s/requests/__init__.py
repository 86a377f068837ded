"""Edit requests: facts in a seeded, prefix-stable order."""
