"""What jobs will need: shapes of models from their configurations, memory, disk and seconds. Imports no torch but to time it."""
