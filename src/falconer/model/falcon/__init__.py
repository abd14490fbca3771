"""Falcon's fast path: which layouts it knows, and its passes."""
