"""The SQL of searches: lists.py puts together what the other modules make of parts of a question."""
