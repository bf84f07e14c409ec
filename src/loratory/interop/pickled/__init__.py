"""Models that other tools left as whole pickled objects (`torch.save` of a module), read without running anything.

A pickle is a program. Here nothing that it names is imported or called: its opcodes are interpreted over inert
values, its tensors are descriptions of byte ranges, and all of this happens in a process with limits
(`python -m loratory.interop.pickled FILE FOLDER`), which leaves safetensors and JSON for others to check.
"""
