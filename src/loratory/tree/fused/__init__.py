"""The fused path: the Llama family with LoRA, run by functions of our own with hand-written backward passes."""
