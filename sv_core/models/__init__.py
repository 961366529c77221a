"""Networks that the mathematics is trained and tested with."""
