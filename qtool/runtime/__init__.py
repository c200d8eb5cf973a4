"""Sessions, what ran in them, worker processes, and signs of life."""
