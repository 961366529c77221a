"""Measuring a model of one's own: the same pictures with all of its calls and with fewer."""
