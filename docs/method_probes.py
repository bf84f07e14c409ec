"""What an adapter method can do, measured on tiny models with random weights: the facts behind docs/methods.md."""

import copy
import functools
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import torch
import transformers
from peft import PeftModel
from torch.autograd.graph import saved_tensors_hooks
from transformers import PreTrainedModel

from loratory.adapter import attach_adapter, load_adapter, save_adapter
from loratory.config import AdapterConfig, QuantizationConfig
from loratory.errors import LoratoryError
from loratory.model.quantise import keep_packing, quantisation_config
from loratory.model.task import task_of
from loratory.tree.scorers import make_scorer

IDS = torch.randint(5, 90, (2, 9), generator=torch.Generator().manual_seed(1))
# What a model of width 32 needs; everything else is PEFT's default.
OPTIONS: dict[str, dict[str, Any]] = {
    "adaption_prompt": {"adapter_len": 4, "adapter_layers": 2},
    "adamss": {"r": 8, "num_subspaces": 2},
    "c3a": {"block_size": 8},
    "cartridge": {"num_virtual_tokens": 4},
    "cpt": {"cpt_token_ids": [5, 6, 7, 8], "cpt_mask": [1, 1, 1, 1], "cpt_tokens_type_mask": [1, 2, 3, 4]},
    "fourierft": {"n_frequency": 50},
    "frod": {"progressbar": False},
    "miss": {"r": 8},
    "p_tuning": {"num_virtual_tokens": 4},
    "prefix_tuning": {"num_virtual_tokens": 4},
    "prompt_tuning": {"num_virtual_tokens": 4},
    "psoft": {"r": 8},
    "road": {"group_size": 8},
    "shira": {"r": 4},
    "trainable_tokens": {"token_indices": IDS[0, :2].tolist()},
    "vblora": {"vector_length": 8},
    "waveft": {"n_frequency": 50},
}
FAULTS = (
    LoratoryError, RuntimeError, ValueError, TypeError, NotImplementedError, AttributeError, KeyError, IndexError,
    AssertionError,
)  # fmt: skip
SIZES = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "vocab_size": 100}
KINDS = {
    "bert_classes": "BERT with classes",
    "llama_classes": "Llama with classes",
    "t5": "T5",
    "gpt2": "GPT-2 (Conv1D, fused qkv)",
    "bloom": "BLOOM (fused qkv)",
    "gemma": "Gemma (tied embeddings)",
    "mixtral": "Mixtral (experts)",
}
NOT_TIMED_FACTS = ("time", "memory")


def probe(method: str, *, is_timed: bool = True) -> dict[str, Any]:
    """Facts of a method; see docs/methods.md.

    Args:
        method: Its name.
        is_timed: Measure time and memory as well, against LoRA.
    """
    has_bias = method == "beft"
    model = _attach(llama(has_bias=has_bias), method)
    start = _difference(_logits(model), _logits(llama(has_bias=has_bias)))
    trained = _backward(model)
    found: dict[str, Any] = {
        "options": OPTIONS.get(method, {}),
        "trainable": sum(p.numel() for p in trained),
        "gradient": all(p.grad is not None for p in trained),
        "start": start,
        "path": make_scorer(model).path,
        "saves": _holds(lambda: _saves(llama(has_bias=has_bias), method)),
        "merge": _try(lambda: _merge_error(method, has_bias=has_bias)),
        "nf4": _holds(lambda: _trains_quantised(method, "load_in_4bit", start, has_bias=has_bias)),
        "int8": _holds(lambda: _trains_quantised(method, "load_in_8bit", start, has_bias=has_bias)),
        "multiples_of_8": _holds(lambda: _moves(_attach(llama(72, has_bias=has_bias), method))),
        "odd": _holds(lambda: _moves(_attach(llama(67, has_bias=has_bias), method))),
        **{kind: _holds(lambda kind=kind: _fits_family(kind, method)) for kind in KINDS},  # type: ignore[misc]
    }
    if is_timed:
        found |= {"time": _relative_time(method), "memory": _relative_memory(method)}
    return found


def llama(mlp: int = 64, *, has_bias: bool = False, scale: int = 1, num_layers: int = 2) -> PreTrainedModel:
    """A random Llama of width 32 * scale."""
    sizes = {**SIZES, "hidden_size": 32 * scale, "num_hidden_layers": num_layers}
    config = transformers.LlamaConfig(
        **sizes, intermediate_size=mlp * scale, num_key_value_heads=2, attention_bias=has_bias
    )
    return _random(transformers.LlamaForCausalLM, config)


def tiny_of(kind: str) -> PreTrainedModel:
    """A random model of another family."""
    config: Any
    if kind == "bert_classes":
        config = transformers.BertConfig(**SIZES, intermediate_size=64, num_labels=3, pad_token_id=0)
        return _random(transformers.BertForSequenceClassification, config)
    if kind == "llama_classes":
        config = transformers.LlamaConfig(
            **SIZES, intermediate_size=64, num_labels=3, pad_token_id=0, attention_bias=True
        )
        return _random(transformers.LlamaForSequenceClassification, config)
    if kind == "t5":
        config = transformers.T5Config(
            d_model=32, d_ff=64, d_kv=8, num_layers=2, num_heads=4, vocab_size=100, decoder_start_token_id=0
        )
        return _random(transformers.T5ForConditionalGeneration, config)
    if kind == "gpt2":
        config = transformers.GPT2Config(n_embd=32, n_layer=2, n_head=4, vocab_size=100, n_positions=64)
        return _random(transformers.GPT2LMHeadModel, config)
    if kind == "bloom":
        config = transformers.BloomConfig(hidden_size=32, n_layer=2, n_head=4, vocab_size=100)
        return _random(transformers.BloomForCausalLM, config)
    shape = {**SIZES, "intermediate_size": 64, "num_key_value_heads": 2}
    if kind == "gemma":
        config = transformers.GemmaConfig(**shape, head_dim=8, tie_word_embeddings=True)
        return _random(transformers.GemmaForCausalLM, config)
    config = transformers.MixtralConfig(**shape, num_local_experts=4)
    return _random(transformers.MixtralForCausalLM, config)


def _random(model_class: Any, config: Any) -> PreTrainedModel:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model: PreTrainedModel = model_class(config).eval()
        return model


def _attach(model: PreTrainedModel, method: str, options: dict[str, Any] | None = None) -> PeftModel:
    section = AdapterConfig(method=method, options=OPTIONS.get(method, {}) if options is None else options)
    attached = attach_adapter(model, section, seed=0).model
    assert isinstance(attached, PeftModel)
    return attached.eval()


def _logits(model: torch.nn.Module, ids: torch.Tensor = IDS) -> torch.Tensor:
    base = model.get_base_model() if isinstance(model, PeftModel) else model
    assert isinstance(base, PreTrainedModel)
    more = {"decoder_input_ids": ids} if task_of(base) == "seq_2_seq_lm" else {}
    logits: torch.Tensor = model(input_ids=ids, attention_mask=torch.ones_like(ids), **more).logits
    return logits[:, -ids.shape[1] :]


def _backward(model: torch.nn.Module) -> list[torch.nn.Parameter]:
    """What is trained, with the gradients of one pass."""
    _logits(model).float().log_softmax(-1)[..., 0].sum().backward()  # type: ignore[no-untyped-call]
    return [p for p in model.parameters() if p.requires_grad]


def _difference(first: torch.Tensor, second: torch.Tensor) -> float:
    return float(f"{float((first - second).abs().max()):.1e}")


def _move(model: PeftModel) -> PeftModel:
    """As after training."""
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.02 * torch.randn(parameter.shape, generator=generator))
    return model


def _moves(model: PeftModel) -> bool:
    """Every trained tensor has numbers and a gradient, and the answer moves with them."""
    trained = _backward(model)
    has_all = all(p.numel() and p.grad is not None and bool(torch.isfinite(p.grad).all()) for p in trained)
    before = _logits(model).detach()
    after = _logits(_move(model)).detach()
    return has_all and bool(torch.isfinite(after).all()) and not torch.equal(before, after)


def _saves(base: PreTrainedModel, method: str) -> bool:
    """What is saved and loaded answers the same, to the bit."""
    model = _move(_attach(copy.deepcopy(base), method))
    with tempfile.TemporaryDirectory() as folder, torch.no_grad():
        save_adapter(model, Path(folder), base_identity="b" * 64)
        again = load_adapter(base, Path(folder), trainable=False, base_identity="b" * 64)
        return torch.equal(_logits(again), _logits(model))


def _fits_family(kind: str, method: str) -> bool:
    return _moves(_attach(tiny_of(kind), method)) and _saves(tiny_of(kind), method)


def _trains_quantised(method: str, width: str, start: float, *, has_bias: bool) -> bool:
    """Trains, and begins as near to the quantised base as to the plain one: packed weights are not taken for values."""
    bare = _logits(_quantised(width, has_bias=has_bias))
    model = _attach(_quantised(width, has_bias=has_bias), method)
    is_near = _difference(_logits(model), bare) <= 3 * start + 1e-3
    return is_near and _moves(model) and _saves(_quantised(width, has_bias=has_bias), method)


def _quantised(width: str, *, has_bias: bool) -> PreTrainedModel:
    return copy.deepcopy(_loaded_quantised(width, has_bias=has_bias))


@functools.cache
def _loaded_quantised(width: str, *, has_bias: bool) -> PreTrainedModel:
    section = QuantizationConfig.model_validate({width: True})
    with tempfile.TemporaryDirectory() as folder:
        llama(has_bias=has_bias).save_pretrained(folder)
        config = quantisation_config(section, torch.float32)
        model = transformers.LlamaForCausalLM.from_pretrained(
            folder, quantization_config=config, dtype=torch.float32, device_map="cpu"
        ).eval()
    keep_packing(model)
    assert isinstance(model, PreTrainedModel)
    return model


def _merge_error(method: str, *, has_bias: bool) -> float | bool:
    model = _move(_attach(llama(has_bias=has_bias), method))
    before = _logits(model)
    if not hasattr(model.base_model, "merge_and_unload"):
        return False
    return _difference(_logits(model.merge_and_unload()), before)


def _relative_time(method: str) -> float:
    """Time of a forward and backward pass against LoRA's: medians of turns, after a pass to warm up."""
    step, lora = _timed_step(method), _timed_step("lora")
    step(), lora()
    pairs = [(step(), lora()) for _ in range(5)]
    return float(f"{median(own for own, _ in pairs) / median(other for _, other in pairs):.2g}")


def _timed_step(method: str) -> Callable[[], float]:
    model, ids = _wide(method)

    def step() -> float:
        begin = time.perf_counter()
        _logits(model, ids).sum().backward()  # type: ignore[no-untyped-call]
        return time.perf_counter() - begin

    return step


def _relative_memory(method: str) -> float:
    """Bytes kept for the backward pass, and of what is trained, gradients and AdamW's moments, against LoRA's."""
    return float(f"{_bytes(method) / _bytes('lora'):.2g}")


@functools.cache
def _bytes(method: str) -> int:
    model, ids = _wide(method)
    base_bytes = sum(map(_size, llama(scale=8, num_layers=4).parameters()))
    kept: dict[int, int] = {}
    own = {p.untyped_storage().data_ptr() for p in model.parameters() if p.layout == torch.strided}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        if tensor.layout != torch.strided:
            kept[id(tensor)] = _size(tensor)
            return tensor
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with saved_tensors_hooks(keep, lambda tensor: tensor):
        loss = _logits(model, ids).sum()
    trained = sum(_size(p) for p in model.parameters() if p.requires_grad)
    held = sum(map(_size, (*model.parameters(), *model.buffers()))) - base_bytes
    del loss
    return sum(kept.values()) + max(held, trained) + 3 * trained


def _size(tensor: torch.Tensor) -> int:
    if tensor.layout == torch.sparse_coo:
        return _size(tensor._values()) + _size(tensor._indices())
    return tensor.numel() * tensor.element_size()


def _wide(method: str) -> tuple[PeftModel, torch.Tensor]:
    """A model of width 256 with rows of 128 tokens, on which time and memory are measured."""
    ids = torch.randint(5, 90, (2, 128), generator=torch.Generator().manual_seed(2))
    return _attach(llama(scale=8, num_layers=4, has_bias=method == "beft"), method).train(), ids


def _holds(run: Callable[[], bool]) -> bool:
    return bool(_try(run))


def _try(run: Callable[[], Any]) -> Any:
    try:
        return run()
    except FAULTS:
        return False
