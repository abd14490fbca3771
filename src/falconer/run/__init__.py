"""The folder of a run: its files, its state, its figures, and the list of runs. Never torch."""
