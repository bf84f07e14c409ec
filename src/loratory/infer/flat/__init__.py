"""Inference on flat tokens: rows of any length in one pass without padding, each with a slot of keys and values."""
