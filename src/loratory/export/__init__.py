"""A trained model for other programs: GGUF files, Ollama, vLLM, a model card, the hub."""
