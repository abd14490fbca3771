"""Models: loading, adapters, scores, generation. The only folder that imports peft and bitsandbytes."""
