"""The networks that can be trained, one adapter each."""
