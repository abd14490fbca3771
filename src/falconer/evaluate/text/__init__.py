"""What can be said of replies as text: figures, intervals, tests, files. Never torch."""
