"""What training reads: caches, digits, batches, references."""
