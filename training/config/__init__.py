"""The configuration of a run: its keys, how they are read, and what must hold between them."""
