"""Sharing a tuned model: certificates, the model card, the folder for the hub, and the upload."""
