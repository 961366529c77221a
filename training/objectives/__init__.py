"""What a run learns: velocities, average velocities, and alignment with features."""
