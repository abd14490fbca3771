"""Benchmarks: the speed and memory figures of the README, measured on your machine next to other software."""
