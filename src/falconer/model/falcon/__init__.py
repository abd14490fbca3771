"""The fast path: falconer's own forward and backward pass for models with the layout of Falcon-7B, 40B or 11B."""
