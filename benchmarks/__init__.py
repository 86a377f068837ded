"""Speed of our parts against their plain versions. Run by `make bench`, which also writes docs/performance.md."""
