"""Models: loading, adapters, likelihoods, generation, export. Only this folder imports peft and bitsandbytes."""
