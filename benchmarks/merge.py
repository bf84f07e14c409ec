"""Memory and time of a merge: `python -m benchmarks.merge [--gib 6] [--compare-gib 1]`.

Writes synthetic sharded Llama checkpoints in bfloat16, merges a rank 16 adapter of q_proj and v_proj, and deletes them.
The large one is merged by loratory alone and held to its bound (3 times the largest tensor + 400 MB); the small one by
PEFT's `merge_and_unload` too. Every contestant is a process of its own; memory is its highest resident set.
"""

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, PreTrainedTokenizerFast

from loratory.adapter.shards import Entry, write_index, write_shard

LAYER_GIB = 0.377
HIDDEN, FFN, VOCABULARY, RANK = 4096, 11008, 32000, 16
ALLOWED_MB, ALLOWED_TIMES = 400, 3
OURS = """
import sys, time, resource
from pathlib import Path
from loratory.adapter.merge import merge_adapter
from loratory.config import ModelConfig
base, adapter, output = map(Path, sys.argv[1:4])
start = time.perf_counter()
found = merge_adapter(ModelConfig(model_name_or_path=str(base)), adapter, output)
seconds = time.perf_counter() - start
print("RESULT", seconds, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, found.measured.mean_kl_nats)
"""
THEIRS = """
import sys, time, resource, torch
from peft import PeftModel
from transformers import AutoModelForCausalLM
base, adapter, output = sys.argv[1:4]
start = time.perf_counter()
model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.bfloat16)
PeftModel.from_pretrained(model, adapter).merge_and_unload().save_pretrained(output)
seconds = time.perf_counter() - start
print("RESULT", seconds, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, "nan")
"""


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--gib", type=float, default=6.0, help="size of the large checkpoint; 0 leaves it out")
    parser.add_argument("--compare-gib", type=float, default=1.0, help="size of the one that PEFT merges too")
    parser.add_argument("--workdir", type=Path, default=None, help="where the checkpoints go; default a temporary one")
    flags = parser.parse_args()
    print(f"{'checkpoint':>12} {'contestant':>24} {'time':>9} {'highest RSS':>12} {'bound':>9} {'mean KL':>9}")
    for gib, contestants in ((flags.compare_gib, ("loratory", "PEFT merge_and_unload")), (flags.gib, ("loratory",))):
        if gib <= 0:
            continue
        with tempfile.TemporaryDirectory(dir=flags.workdir) as name:
            _measure(Path(name), gib, contestants)


def _measure(folder: Path, gib: float, contestants: tuple[str, ...]) -> None:
    num_bytes = write_base(folder / "base", max(1, round((gib - 0.49) / LAYER_GIB)))
    num_layers = json.loads((folder / "base" / "config.json").read_text(encoding="utf-8"))["num_hidden_layers"]
    write_adapter(folder / "adapter", num_layers)
    largest = VOCABULARY * HIDDEN * 2
    bound_mb = ALLOWED_TIMES * largest / 1e6 + ALLOWED_MB
    for contestant in contestants:
        seconds, rss_kib, kl = _run(OURS if contestant == "loratory" else THEIRS, folder)
        shutil.rmtree(folder / "merged", ignore_errors=True)
        size = f"{num_bytes / 2**30:.2f} GiB"
        rss = f"{rss_kib * 1024 / 1e6:.0f} MB"
        print(f"{size:>12} {contestant:>24} {seconds:>7.1f} s {rss:>12} {bound_mb:>6.0f} MB {kl:>9.2g}", flush=True)


def _run(code: str, folder: Path) -> tuple[float, int, float]:
    arguments = [str(folder / name) for name in ("base", "adapter", "merged")]
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=False)
    line = next((line for line in done.stdout.splitlines() if line.startswith("RESULT")), None)
    if line is None:
        raise SystemExit(f"the merge failed:\n{done.stderr[-2000:]}")
    _, seconds, rss, kl = line.split()
    return float(seconds), int(rss), float(kl)


def write_base(folder: Path, num_layers: int) -> int:
    """Write a random checkpoint, one layer per shard; returns its bytes."""
    folder.mkdir(parents=True)
    config = LlamaConfig(
        hidden_size=HIDDEN,
        intermediate_size=FFN,
        num_hidden_layers=num_layers,
        num_attention_heads=32,
        num_key_value_heads=32,
        vocab_size=VOCABULARY,
        dtype="bfloat16",
        architectures=["LlamaForCausalLM"],
    )
    config.save_pretrained(folder)
    shapes = {"model.embed_tokens.weight": (VOCABULARY, HIDDEN), "lm_head.weight": (VOCABULARY, HIDDEN)}
    shards = [shapes | {"model.norm.weight": (HIDDEN,)}]
    for layer in range(num_layers):
        prefix = f"model.layers.{layer}"
        attention = {f"{prefix}.self_attn.{name}_proj.weight": (HIDDEN, HIDDEN) for name in "qkvo"}
        ffn = {f"{prefix}.mlp.{name}_proj.weight": (FFN, HIDDEN) for name in ("gate", "up")}
        norms = {f"{prefix}.{name}_layernorm.weight": (HIDDEN,) for name in ("input", "post_attention")}
        shards.append({**attention, **ffn, f"{prefix}.mlp.down_proj.weight": (HIDDEN, FFN), **norms})
    block = (torch.randn(1 << 22, generator=torch.Generator().manual_seed(0)) * 0.02).to(torch.bfloat16)
    places, total = {}, 0
    for index, shard in enumerate(shards):
        name = f"model-{index + 1:05d}-of-{len(shards):05d}.safetensors"
        total += write_shard(folder / name, {key: _entry(shape, block) for key, shape in shard.items()})
        places |= dict.fromkeys(shard, name)
    write_index(folder, places, total)
    _tokenizer().save_pretrained(folder)
    return total


def write_adapter(folder: Path, num_layers: int) -> None:
    """Write a random adapter as PEFT does."""
    folder.mkdir(parents=True)
    generator = torch.Generator().manual_seed(1)
    tensors = {}
    for layer in range(num_layers):
        for name in ("q_proj", "v_proj"):
            key = f"base_model.model.model.layers.{layer}.self_attn.{name}"
            tensors[f"{key}.lora_A.weight"] = torch.randn(RANK, HIDDEN, generator=generator) * 0.02
            tensors[f"{key}.lora_B.weight"] = torch.randn(HIDDEN, RANK, generator=generator) * 0.02
    save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    config = {"peft_type": "LORA", "task_type": "CAUSAL_LM", "r": RANK, "lora_alpha": 2 * RANK}
    config |= {"target_modules": ["q_proj", "v_proj"], "inference_mode": True}
    (folder / "adapter_config.json").write_text(json.dumps(config), encoding="utf-8")


def _entry(shape: tuple[int, ...], block: torch.Tensor) -> Entry:
    def pieces() -> Iterator[torch.Tensor]:
        if len(shape) == 1:
            yield torch.ones(shape, dtype=torch.bfloat16)
            return
        left = torch.Size(shape).numel()
        while left:
            yield block[: min(left, block.numel())]
            left -= min(left, block.numel())

    return Entry("BF16", shape, pieces)


def _tokenizer() -> PreTrainedTokenizerFast:
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: index for index, token in enumerate(["<s>", "</s>", *alphabet])}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", pad_token="</s>")


if __name__ == "__main__":
    main()
