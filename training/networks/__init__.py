"""The networks that can be trained, one adapter each; this file imports nothing, they do."""
