"""`python -m docs.methods` probes every adapter method on tiny models and writes what it found.

Writes the options file and the capability file that validation reads, and the page docs/methods.md. `--options`
writes the options alone, `--page` the page alone, from the capability file; names of methods probe these alone.
"""

import json
import logging
import sys
import warnings
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from transformers.utils import logging as transformers_logging

from docs.method_probes import FAULTS, KINDS, probe
from loratory.adapter.peft_options import describe_methods
from loratory.adapter.targets import DEFAULT_TARGETS
from loratory.config.method_catalogue import REFUSED, method_names

ROOT = Path(__file__).resolve().parents[1]
OPTIONS_FILE = ROOT / "src" / "loratory" / "config" / "adapter_methods.json"
CAPABILITIES_FILE = OPTIONS_FILE.with_name("adapter_capabilities.json")
PAGE = ROOT / "docs" / "methods.md"
BEGIN = """# Adapter methods

`adapter.method` takes `lora`, `full` and every method below; its own options go into `adapter.options` under PEFT's
names, and are checked before anything is loaded. `python -m docs.methods` wrote this page and the capability file that
validation reads, by probing tiny models with random weights on a CPU in float32.

## What a method does

- trained numbers: on a Llama of width 32 with two layers, with the options that this size needs.
- at start: largest difference of a logit between the fresh adapter on its base and the bare base.
- merge error: largest difference of a logit after the trained adapter was added into the weights; "cannot" means that
  the method has no merge, and the adapter stays apart.
- path: the engine's path. `tree` and `fused` compute shared prefixes once, `padded` is the usual batch.
- time, memory: of a forward and backward pass against LoRA of rank 8 (width 256, four layers, two rows of 128 tokens,
  PEFT's own modules); memory is what is kept for the backward pass, with gradients and AdamW's moments.
  Of a large base the weights come on top, which are the same for all.
"""
GOES_ON = """
## Where a method goes

"yes": attaches, every trained tensor gets a finite gradient, the answer moves, and a saved adapter answers the same
after loading. A configuration that needs a "no" is refused before weights are loaded, with the nearest method that
goes there.

4 and 8 bits: a base that bitsandbytes keeps in nf4 or int8. Uneven widths: MLPs of 72 or 67 in a model of width 32, as
pruning leaves them.
"""
FAMILIES = """
## Targets

- `all`, `complete`: every linear layer but the head.
- `standard`: the linear layers in attention; `minimal`: queries and values, or the layer that holds both.
- `default`: by model type, see the table; PEFT's own table stands in for types that are not named there.
- Names: each selects the modules whose full name is it or ends with "." and it. A regular expression is matched
  against full names, with a time limit.
- LN tuning adapts norms, trainable tokens the input embedding, BEFT linear layers with a bias; IA3's default is PEFT's
  list for the type; prompt methods adapt no layer.
"""
NOTES = """
## Notes by family

- Tied embeddings (Gemma, most small Qwen and SmolLM models, GPT-2, BLOOM, T5): input embedding and head are one
  weight, so neither can be a target; to train it, put `lm_head` into `adapter.modules_to_save`, which trains and saves
  the one weight.
- Fused queries, keys and values (`c_attn` in GPT-2, `query_key_value` in BLOOM, GPT-NeoX and Falcon, `qkv_proj` in
  Phi-3, `Wqkv` in MPT): one target holds all three; `minimal` takes it whole. For separate updates choose a family
  with separate layers.
- Conv1D (GPT-2): weights are stored transposed; `fan_in_fan_out` is set for you. Methods with a "no" in that column
  adapt `nn.Linear` only.
- Mixture of experts (Mixtral, Qwen-MoE): experts are stacked parameters and no linear layers, so `all` adapts attention
  and not the experts; routers are linear layers of their own class and stay as they are.
- Encoders with classes (BERT and others): the head is always trained and saved with the adapter, and `all` leaves it
  out of the targets.
- Encoder-decoders (T5, BART): adapters go into both halves; prompt methods put their tokens before the encoder and
  need `num_transformer_submodules` from the model, which is filled in.
- Rotary models with different widths in each layer (pruned): methods with a "no" for odd widths need blocks that
  divide them; LoRA takes any.

## Initialisations of LoRA

| `adapter.init` | looks at | base in 4 or 8 bits | changes the base |
|---|---|---|---|
| default, gaussian, orthogonal (even rank) | nothing | yes | no |
| olora, pissa, pissa_niter_N | the weights | no | no: what it takes out is saved with the adapter |
| eva | 128 training rows: activations | yes | no |
| corda | 128 training rows: covariances | no | no, as pissa |
| lora_ga | 128 training rows: gradients | no | no, as pissa |
| loftq | the weights before quantisation | 4 bits only | no |
"""


def page(found: Mapping[str, Mapping[str, Any]]) -> str:
    """docs/methods.md."""
    usable = {name: facts for name, facts in found.items() if "fault" not in facts}
    lines = [
        *BEGIN.splitlines(),
        "",
        "| method | trained numbers | gradient everywhere | at start | save → load equal | merge error | path | time "
        "| memory |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for name, facts in usable.items():
        start = "no change" if facts["start"] == 0 else f"{facts['start']:.0e}"
        merge = "cannot" if facts["merge"] is False else f"{facts['merge']:.0e}"
        lines.append(
            f"| {name} | {facts['trainable']} | {_yes(facts['gradient'])} | {start} | {_yes(facts['saves'])} | {merge} "
            f"| {facts['path']} | {facts['time']:g} | {facts['memory']:g} |"
        )
    columns = {"nf4": "4 bits", "int8": "8 bits", "multiples_of_8": "widths of 8", "odd": "odd widths", **KINDS}
    lines += [*GOES_ON.splitlines(), ""]
    lines += [f"| method | {' | '.join(columns.values())} |", f"|---{'|---' * len(columns)}|"]
    lines += [f"| {name} | {' | '.join(_yes(facts[key]) for key in columns)} |" for name, facts in usable.items()]
    lines += ["", "## Refused", ""]
    lines += [f"- `{name}`: {reason}." for name, reason in REFUSED.items()]
    lines += [f"- `{name}`: {facts['fault']}" for name, facts in found.items() if "fault" in facts]
    lines += [*FAMILIES.splitlines(), "", "| default targets | model types |", "|---|---|"]
    types = defaultdict(list)
    for model_type, targets in DEFAULT_TARGETS.items():
        types[", ".join(f"`{name}`" for name in targets)].append(model_type)
    lines += [f"| {targets} | {', '.join(sorted(names))} |" for targets, names in types.items()]
    return "\n".join([*lines, *NOTES.splitlines()]) + "\n"


def options_text() -> str:
    """The content of the options file."""
    return json.dumps(describe_methods(), indent=1, ensure_ascii=False) + "\n"


def main() -> None:
    """Write the files."""
    flags = sys.argv[1:]
    if flags != ["--page"]:
        OPTIONS_FILE.write_text(options_text(), encoding="utf-8")
    if flags == ["--options"]:
        return
    methods = [name for name in method_names() if name != "full"]
    found = json.loads(CAPABILITIES_FILE.read_text(encoding="utf-8")) if flags else {}
    if flags != ["--page"]:
        found |= _probe_all(flags or methods)
        found = {name: found[name] for name in methods}
        CAPABILITIES_FILE.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    PAGE.write_text(page(found), encoding="utf-8")
    print(f"wrote {PAGE.relative_to(ROOT)}: {len(found)} methods")


def _probe_all(methods: Sequence[str]) -> dict[str, Any]:
    warnings.simplefilter("ignore")
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    torch.set_num_threads(1)
    found: dict[str, Any] = {}
    for method in methods:
        try:
            found[method] = probe(method)
        except FAULTS as fault:
            found[method] = {"fault": str(fault).splitlines()[0][:160]}
        print(method, flush=True)
    return found


def _yes(value: object) -> str:
    return "yes" if value else "no"


if __name__ == "__main__":
    main()
