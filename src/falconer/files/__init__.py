"""Writing files safely: atomically, synced to the disk, by one process at a time. Does not import torch."""
