"""Sweeps: settings times seeds, each an ordinary run in a process of its own, compared on validation data."""
