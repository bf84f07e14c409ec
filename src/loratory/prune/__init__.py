"""Structured pruning of Llama-family models, and training that wins back what it cost."""
