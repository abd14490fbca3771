"""Exporting a tuned model: merged weights, GGUF, Ollama. The whole model is never loaded at once."""
