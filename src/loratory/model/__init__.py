"""The base model: where it lies, loading it with its tokenizer, keeping it in 4 or 8 bits, and its identity."""

from loratory.model.load import LoadedModel, closes_prompt, load_model
from loratory.model.tokenizer import load_tokenizer

__all__ = ["LoadedModel", "closes_prompt", "load_model", "load_tokenizer"]
