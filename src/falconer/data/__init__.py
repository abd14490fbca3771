"""From raw files to batches: reading, splitting, prompting, encoding, batching."""
