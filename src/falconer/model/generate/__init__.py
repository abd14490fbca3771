"""Replies: how they are made, chosen and cut."""
