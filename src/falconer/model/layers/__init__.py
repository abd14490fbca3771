"""Layers of any model that training computes itself: each one is a single step of autograd, which stores little."""
