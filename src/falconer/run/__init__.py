"""The folder of a run: its files, its state, its metrics, and the list of runs. Does not import torch."""
