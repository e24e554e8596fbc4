"""Theory of the user's own model: its traced program is run on random fields instead of numbers."""
