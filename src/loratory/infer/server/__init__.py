"""An OpenAI-compatible server: requests join a running batch between two passes, adapters of one base side by side."""
