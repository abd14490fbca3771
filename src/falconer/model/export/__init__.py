"""A tuned model for other programs: merged weights, GGUF, Ollama. Nothing here loads a whole model."""
