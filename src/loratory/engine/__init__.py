"""The one training loop and what feeds it; `run_training` is the door."""
