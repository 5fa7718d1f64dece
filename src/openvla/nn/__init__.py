"""The layers: attention, encoders, decoder."""
