"""The demonstration on digits: ``python -m training.demo``."""
