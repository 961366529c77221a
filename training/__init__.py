"""The trainer: from data to checkpoints. Imports sv_core; knows no host."""

import os

# Set before torch starts its threads: waiting threads then sleep. Where they spin instead, a second
# busy program on the machine makes each small operation wait for a core (15 times slower).
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
