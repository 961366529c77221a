"""Experiments in two dimensions, where everything is known exactly."""
