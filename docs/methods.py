"""`python -m docs.methods` probes every adapter method on tiny models and writes what it found.

Writes the options file that validation reads, the capability file and the page docs/methods.md. `--options` writes
the options alone.
"""

import copy
import json
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel

from loratory.adapter import attach_adapter, load_adapter, save_adapter
from loratory.adapter.peft_options import describe_methods
from loratory.config import AdapterConfig
from loratory.config.method_catalogue import REFUSED, method_names
from loratory.errors import LoratoryError
from loratory.tree.scorers import make_scorer

ROOT = Path(__file__).resolve().parents[1]
OPTIONS_FILE = ROOT / "src" / "loratory" / "config" / "adapter_methods.json"
CAPABILITIES_FILE = OPTIONS_FILE.with_name("adapter_capabilities.json")
PAGE = ROOT / "docs" / "methods.md"
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
    "trainable_tokens": {"token_indices": [3, 4]},
    "vblora": {"vector_length": 8},
    "waveft": {"n_frequency": 50},
}
FAULTS = (LoratoryError, RuntimeError, ValueError, TypeError, NotImplementedError, AttributeError, KeyError, IndexError)
IDS = torch.randint(5, 90, (2, 9), generator=torch.Generator().manual_seed(1))


def options_text() -> str:
    """The content of the options file."""
    return json.dumps(describe_methods(), indent=1, ensure_ascii=False) + "\n"


def tiny_model(mlp: int = 64, *, hidden: int = 32, has_bias: bool = False) -> LlamaForCausalLM:
    """A random Llama."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        config = LlamaConfig(
            hidden_size=hidden,
            intermediate_size=mlp,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            vocab_size=100,
            attention_bias=has_bias,
        )
        return LlamaForCausalLM(config).eval()


def probe(method: str) -> dict[str, Any]:
    """What a method can do, measured."""
    base = tiny_model(has_bias=method == "beft")
    start = time.perf_counter()
    model = _attach(base, method)
    loss = torch.nn.functional.cross_entropy(_logits(model).flatten(0, 1), IDS.flatten())
    loss.backward()  # type: ignore[no-untyped-call]
    seconds = time.perf_counter() - start
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    plain = _logits(base := tiny_model(has_bias=method == "beft"))
    found: dict[str, Any] = {
        "trainable": sum(p.numel() for p in trained.values()),
        "gradient": all(p.grad is not None for p in trained.values()),
        "start": _difference(_logits(model), plain),
        "path": make_scorer(model).path,
        "saves": _try(lambda: _saves(method)),
        "merge": _try(lambda: _merge_error(method)),
        "multiples_of_8": _try(lambda: _moves(_attach(tiny_model(72), method))),
        "odd": _try(lambda: _moves(_attach(tiny_model(67), method))),
        "seconds": round(seconds, 3),
    }
    return found


def _attach(model: PreTrainedModel, method: str) -> PeftModel:
    section = AdapterConfig(method=method, options=OPTIONS.get(method, {}))
    attached = attach_adapter(model, section, seed=0).model
    assert isinstance(attached, PeftModel)
    return attached.eval()


def _logits(model: torch.nn.Module) -> torch.Tensor:
    logits: torch.Tensor = model(input_ids=IDS, attention_mask=torch.ones_like(IDS)).logits
    return logits[:, -IDS.shape[1] :]


def _difference(first: torch.Tensor, second: torch.Tensor) -> float:
    return float(f"{float((first - second).abs().max()):.1e}")


def _move(model: PeftModel) -> PeftModel:
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.02 * torch.randn(parameter.shape, generator=generator))
    return model


def _moves(model: PeftModel) -> bool:
    """Every trained tensor has numbers and a gradient, and the answer moves."""
    before = _logits(model)
    before.square().mean().backward()  # type: ignore[no-untyped-call]
    trained = [p for p in model.parameters() if p.requires_grad]
    has_all = all(p.numel() and p.grad is not None for p in trained)
    return has_all and bool(torch.isfinite(_logits(_move(model))).all())


def _saves(method: str) -> bool:
    base = tiny_model(has_bias=method == "beft")
    model = _move(_attach(copy.deepcopy(base), method))
    with tempfile.TemporaryDirectory() as folder:
        save_adapter(model, Path(folder), base_identity="b" * 64)
        again = load_adapter(base, Path(folder), trainable=False, base_identity="b" * 64)
        return torch.equal(_logits(again), _logits(model))


def _merge_error(method: str) -> float | bool:
    model = _move(_attach(tiny_model(has_bias=method == "beft"), method))
    before = _logits(model)
    if not hasattr(model.base_model, "merge_and_unload"):
        return False
    return _difference(_logits(model.merge_and_unload()), before)


def _try(run: Callable[[], Any]) -> Any:
    try:
        return run()
    except FAULTS:
        return False


def page(found: dict[str, Any]) -> str:
    """docs/methods.md."""
    lines = [
        "# Adapter methods",
        "",
        "`adapter.method` takes `lora`, `full` and every method below; its own options go into `adapter.options` under",
        "PEFT's names, and are checked before anything is loaded. `python -m docs.methods` wrote this page by probing",
        "tiny models on a CPU (random Llama of width 32, fp32). Times of one first step, against LoRA, tell",
        "only the very slow apart.",
        "",
        "| method | trained numbers | gradient everywhere | difference at start | save → load equal | merge error "
        "| widths: multiples of 8 | odd | path | time |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    unit = found["lora"].get("seconds", 1)
    for name, facts in found.items():
        if "fault" in facts:
            lines.append(f"| {name} | not usable on this model: {facts['fault']} | | | | | | | | |")
            continue
        start = "none" if facts["start"] == 0 else f"{facts['start']:.0e}"
        merge = "cannot" if facts["merge"] is False else f"{facts['merge']:.0e}"
        cells = [facts[key] for key in ("multiples_of_8", "odd")]
        words = " | ".join("yes" if cell else "no" for cell in cells)
        lines.append(
            f"| {name} | {facts['trainable']} | {_yes(facts['gradient'])} | {start} | {_yes(facts['saves'])} | {merge} "
            f"| {words} | {facts['path']} | {facts['seconds'] / unit:.1f} |"
        )
    lines += ["", "## Refused", ""]
    lines += [f"- `{name}`: {reason}." for name, reason in REFUSED.items()]
    lines += [
        "",
        "## Targets",
        "",
        "`all` and `complete`: every linear layer but the head. `standard`: the linear layers in attention.",
        "`minimal`: queries and values, or the layer that holds both (`c_attn`, `query_key_value`). "
        "`default`: by model type; the",
        "list of `loratory.adapter.targets` wins over PEFT's own table (which knows more types). LN tuning adapts",
        "norms, trainable tokens the input embedding, BEFT linear layers with a bias; prompt methods adapt no layer.",
    ]
    return "\n".join(lines) + "\n"


def _yes(value: object) -> str:
    return "yes" if value else "no"


def main() -> None:
    """Write the files."""
    OPTIONS_FILE.write_text(options_text(), encoding="utf-8")
    if "--options" in sys.argv[1:]:
        return
    warnings.simplefilter("ignore")
    found: dict[str, Any] = {}
    for method in method_names():
        if method != "full":
            try:
                found[method] = probe(method)
            except FAULTS as fault:
                found[method] = {"fault": str(fault).splitlines()[0][:160]}
    CAPABILITIES_FILE.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    PAGE.write_text(page(found), encoding="utf-8")
    print(f"wrote {PAGE.relative_to(ROOT)}: {len(found)} methods")


if __name__ == "__main__":
    main()
