"""A run: its loop, one step, its state, what it saves and what it reports."""
