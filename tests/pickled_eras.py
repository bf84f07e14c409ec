"""Pruned Llama files as older transformers and LLM-Pruner left them, made from a model of today.

The classes are stubs under the module names of their time; only while the file is written can they be imported.
"""

import sys
import types
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import LlamaForCausalLM

LLAMA = "transformers.models.llama.modeling_llama"
PRUNER = "LLMPruner.models.hf_llama.modeling_llama"
ERAS = ("llm-pruner", "4.31", "4.46", "4.57")
OLD_CONFIG = ("head_dim", "rope_parameters", "attention_bias", "mlp_bias")


@contextmanager
def importable(classes: list[Any]) -> Iterator[None]:
    """Put stub classes and functions where their module names say, for pickling by reference."""
    added, changed = [], []
    for item in classes:
        parts = item.__module__.split(".")
        for end in range(1, len(parts) + 1):
            name = ".".join(parts[:end])
            if name not in sys.modules:
                sys.modules[name] = types.ModuleType(name)
                added.append(name)
        module = sys.modules[item.__module__]
        changed.append((module, item.__name__, getattr(module, item.__name__, None)))
        setattr(module, item.__name__, item)
    try:
        yield
    finally:
        for module, name, before in reversed(changed):
            if before is None:
                delattr(module, name)
            else:
                setattr(module, name, before)
        for name in added:
            del sys.modules[name]


class Stubs:
    """Stub classes by dotted name."""

    def __init__(self) -> None:
        self.made: dict[str, Any] = {}

    def make(self, module: str, name: str, state: dict[str, Any]) -> Any:
        """An object of a stub class with this state."""
        cls = self.made.setdefault(f"{module}.{name}", type(name, (), {"__module__": module}))
        found = cls()
        found.__dict__.update(state)
        return found


def old_model(model: LlamaForCausalLM, era: str, stubs: Stubs) -> Any:
    """The model as an object tree of an era; weights are the same tensors."""
    modeling = PRUNER if era == "llm-pruner" else LLAMA
    config = {key: value for key, value in model.config.to_dict().items() if key not in OLD_CONFIG}
    config |= {"pad_token_id": -1, "hidden_size": 999, "num_hidden_layers": 77, "torch_dtype": torch.float16}
    if era in ("4.46", "4.57"):
        config |= {"rope_theta": model.config.rope_parameters["rope_theta"], "rope_scaling": None}
    old_config = stubs.make("transformers.models.llama.configuration_llama", "LlamaConfig", config)

    def convert(module: nn.Module, path: str) -> Any:
        state = dict(module.__dict__)
        state["_modules"] = {name: convert(child, f"{path}.{name}") for name, child in module._modules.items()}
        if "config" in state:
            state["config"] = old_config
        name = type(module).__name__
        if name == "LlamaRotaryEmbedding":
            if era in ("llm-pruner", "4.31"):
                return None
            state["rope_init_fn"] = rope_function(stubs)
            state.pop("compute_default_rope_parameters", None)
            return stubs.make(LLAMA, name, state)
        if name == "LlamaAttention":
            state |= {"num_heads": module.q_proj.weight.shape[0] // module.head_dim, "hidden_size": 999}
            if era in ("llm-pruner", "4.31"):
                state.pop("layer_idx", None)
                frequencies = 1.0 / 10000 ** (torch.arange(0, module.head_dim, 2).float() / module.head_dim)
                rotary = {"_buffers": {"inv_freq": frequencies}, "_parameters": {}, "_modules": {}}
                rotary["_non_persistent_buffers_set"] = set()
                state["_modules"]["rotary_emb"] = stubs.make(modeling, "LlamaRotaryEmbedding", rotary)
            return stubs.make(modeling, "LlamaSdpaAttention" if era == "4.46" else name, state)
        if type(module).__module__ == LLAMA:
            return stubs.make(modeling, name, state)
        if name == "SiLUActivation":
            return nn.SiLU() if era == "4.46" else stubs.make("transformers.activations", name, state)
        return module if not module._modules else stubs.make(type(module).__module__, name, state)

    converted = convert(model, "")
    converted.__dict__["generation_config"] = stubs.make(
        "transformers.generation.configuration_utils", "GenerationConfig", {"max_length": 20}
    )
    return converted


def rope_function(stubs: Stubs) -> Any:
    """A function that older rotary modules keep a reference to."""

    def _compute_default_rope_parameters() -> None:
        raise AssertionError("called")

    _compute_default_rope_parameters.__module__ = "transformers.modeling_rope_utils"
    _compute_default_rope_parameters.__qualname__ = "_compute_default_rope_parameters"
    return stubs.made.setdefault(
        "transformers.modeling_rope_utils._compute_default_rope_parameters", _compute_default_rope_parameters
    )


def slow_tokenizer(stubs: Stubs, proto: bytes) -> Any:
    """A slow LLaMA tokenizer of 4.x: SentencePiece bytes, a trie, special tokens."""
    token = stubs.make("tokenizers", "AddedToken", {"content": "<s>", "lstrip": False})
    trie = stubs.make("transformers.tokenization_utils", "Trie", {"data": {"": 1}, "_tokens": {"<s>"}})
    state = {"sp_model_proto": proto, "sp_model": None, "_bos_token": token, "tokens_trie": trie, "add_bos_token": True}
    return stubs.make("transformers.models.llama.tokenization_llama", "LlamaTokenizer", state)


def write_era(model: LlamaForCausalLM, path: Path, era: str, tokenizer: Any = None, proto: bytes | None = None) -> None:
    """Write `{'model', 'tokenizer'}` as the era's `torch.save` did."""
    stubs = Stubs()
    old = old_model(model, era, stubs)
    if proto is not None:
        tokenizer = slow_tokenizer(stubs, proto)
    with importable(list(stubs.made.values())):
        torch.save({"model": old, "tokenizer": tokenizer}, path)
