"""The fast path: falconer's own forward and backward pass for models with Falcon-7B's layout."""
