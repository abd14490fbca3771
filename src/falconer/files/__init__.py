"""Reading files with every check, and writing them: atomically, synced to the disk, by one process at a time.

Does not import torch.
"""
