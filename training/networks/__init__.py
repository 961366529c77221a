"""The networks that can be trained, one adapter for each."""
