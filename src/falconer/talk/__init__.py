"""Chat with a tuned model."""
