"""Writing so that nothing is lost: atomic, synced to the disk, and one writer at a time. Never torch."""
