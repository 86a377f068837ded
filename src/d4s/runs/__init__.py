"""The only loop over a sequence of edits, and measuring what it left."""
