"""The JSON files of `config/`: plain PEFT, on a tiny model of the family that each is for, and importable as a run."""

import json
import runpy
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
import transformers
from transformers import PreTrainedModel

from loratory.adapter import check_adapter
from loratory.adapter.peft_options import describe_methods
from loratory.config.foreign_file import read_foreign_run
from loratory.config.method_catalogue import REFUSED, catalogue

FOLDER = Path(__file__).resolve().parents[2] / "config"
FILES = sorted(FOLDER.glob("*.json"))
pytestmark = pytest.mark.filterwarnings(
    "ignore:.*is_gradient_checkpointing:FutureWarning",
    "ignore:Failed to load the CUDA extension",
    "ignore:Unsupported layer",
    "ignore:Setting boft_n",
    "ignore:Using Rank-Stabilized",
)


def tiny(name: str) -> PreTrainedModel:
    """A model of the file's family, wide enough for its blocks."""
    wide = {"hidden_size": 256, "intermediate_size": 512, "num_hidden_layers": 1, "num_attention_heads": 2}
    grouped = {**wide, "num_key_value_heads": 2, "vocab_size": 300}
    text = transformers.AutoModelForCausalLM
    with torch.random.fork_rng():
        torch.manual_seed(0)
        for family, config in {
            "llama2": transformers.LlamaConfig(**grouped),
            "qwen2": transformers.Qwen2Config(**grouped),
            "mistral": transformers.MistralConfig(**grouped),
            "gemma": transformers.GemmaConfig(**grouped, head_dim=128),
            "bloom": transformers.BloomConfig(hidden_size=64, n_layer=1, n_head=2, vocab_size=300),
            "gpt2": transformers.GPT2Config(n_embd=64, n_layer=1, n_head=2, vocab_size=300),
        }.items():
            if family in name:
                return text.from_config(config)  # type: ignore[no-any-return]
        if "t5" in name:
            small = transformers.T5Config(d_model=32, d_ff=64, num_layers=1, num_heads=2, d_kv=16, vocab_size=300)
            return transformers.T5ForConditionalGeneration(small)
        return transformers.BertForSequenceClassification(transformers.BertConfig(**wide, vocab_size=300))


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_every_file_is_plain_peft_and_fits_its_family(file: Path) -> None:
    values: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    config = peft.get_peft_config(dict(values))
    assert config.peft_type.value == values["peft_type"]
    config.inference_mode = False
    if getattr(config, "init_lora_weights", None) in ("eva", "corda", "loftq"):
        config.init_lora_weights = True  # their passes over data or weights are tested elsewhere
    model = peft.get_peft_model(tiny(file.stem), config)
    assert sum(p.numel() for p in model.parameters() if p.requires_grad) > 0


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_every_file_is_a_section_that_attaches_without_weights(file: Path) -> None:
    run = read_foreign_run([file]).config
    with torch.device("meta"):
        base = tiny(file.stem)
    assert check_adapter(run.adapter, base, quantization=run.quantization).trainable > 0


def test_the_files_are_what_the_generator_writes() -> None:
    made = runpy.run_path(str(FOLDER / "generate.py"))
    for name, values in made["FILES"].items():
        assert (FOLDER / f"{name}.json").read_text(encoding="utf-8") == made["text_of"](values), name
    assert {file.stem for file in FILES} == {*made["FILES"], "lora_llama2_7b_rank4"}


def test_the_table_names_every_file() -> None:
    table = (FOLDER / "README.md").read_text(encoding="utf-8")
    assert [file.name for file in FILES if f"`{file.name}`" not in table] == []


def test_the_catalogue_is_that_of_the_installed_peft() -> None:
    assert json.loads(json.dumps(describe_methods())) == catalogue()
    assert set(REFUSED) <= set(catalogue()["methods"])
