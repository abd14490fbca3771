"""Generating replies: batches, conversations, sampling, and ranking candidates."""
