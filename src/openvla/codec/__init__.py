"""The interpreter between the world (metres, pixels, sentences) and the model (tensors)."""
