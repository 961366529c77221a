"""Samples of a network while it trains and afterwards."""
