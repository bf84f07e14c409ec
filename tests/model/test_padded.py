"""Export of uneven models: padded with zeros to a stock folder, and as pruned_model.bin."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaForCausalLM, PreTrainedTokenizerFast

from loratory.config import ModelConfig
from loratory.errors import IntegrityError, ModelError, RunError
from loratory.model import load_model
from loratory.model.padded import check_padding, pad_to_stock
from loratory.model.pickle_file import write_pickled
from loratory.model.save import save_model_as
from loratory.model.shapes import LayerShape, ModelShapes
from loratory.model.uneven import UNEVEN_FAMILIES, build_uneven, save_uneven, shapes_of

LAYERS = (LayerShape(4, 2, 48), LayerShape(3, 1, 37))


def uneven(base: object, hidden_size: int | None = None) -> LlamaForCausalLM:
    whole = shapes_of(base)  # type: ignore[arg-type]
    torch.manual_seed(0)
    shapes = ModelShapes(hidden_size or whole.hidden_size, whole.vocab_size, whole.head_dim, LAYERS, (0, 1))
    model = build_uneven(base.config, shapes)  # type: ignore[attr-defined]
    with torch.no_grad():
        for name, value in model.named_parameters():
            if name.endswith(("bias", "norm.weight")):
                value.add_(torch.randn_like(value) * 0.1)
    return model  # type: ignore[return-value]


def logits(model: object) -> torch.Tensor:
    with torch.no_grad():
        return model(torch.arange(3, 23)[None]).logits  # type: ignore[operator]


@pytest.mark.parametrize("family", UNEVEN_FAMILIES)
def test_padded_models_have_equal_logits(family: str, tiny_model_dir: Callable[[str], Path], tmp_path: Path) -> None:
    base = load_model(ModelConfig(model_name_or_path=str(tiny_model_dir(family)), dtype="float32"), device="cpu")
    model = uneven(base.model)
    save_uneven(model, tmp_path / "uneven", base.tokenizer)
    saved = save_model_as(
        ModelConfig(model_name_or_path=str(tmp_path / "uneven")), tmp_path / "padded", format="padded"
    )
    stock = AutoModelForCausalLM.from_pretrained(tmp_path / "padded").eval()
    assert (logits(stock) - logits(model)).abs().max() <= 1e-6
    assert saved.logit_difference is not None
    assert saved.parameters > saved.parameters_before
    assert shapes_of(stock).is_uniform
    assert len(AutoTokenizer.from_pretrained(tmp_path / "padded")) == len(base.tokenizer)


def test_a_hidden_size_without_divisor_is_widened(tiny_llama: LlamaForCausalLM) -> None:
    model = uneven(tiny_llama, hidden_size=31)
    padded = pad_to_stock(model)
    assert padded.config.hidden_size % padded.config.num_attention_heads == 0
    assert (logits(padded) - logits(model)).abs().max() <= 1e-6


def test_a_padding_that_answers_otherwise_is_refused(tiny_llama: LlamaForCausalLM) -> None:
    model = uneven(tiny_llama)
    padded = pad_to_stock(model)
    with torch.no_grad():
        padded.model.layers[1].self_attn.o_proj.weight[0, 0] += 1
    with pytest.raises(IntegrityError, match="answers otherwise"):
        check_padding(model, padded)


def test_pruned_model_bin_opens_without_loratory_and_with_it(
    tiny_llama: LlamaForCausalLM,
    tiny_tokenizer: PreTrainedTokenizerFast,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("LORATORY_CACHE", str(tmp_path / "cache"))
    model = uneven(tiny_llama)
    path = tmp_path / "out" / "pruned_model.bin"
    write_pickled(model, tiny_tokenizer, path)
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]
    torch.save(logits(model), tmp_path / "wanted.pt")
    code = (
        "import sys, torch; found = torch.load(sys.argv[1], weights_only=False)\n"
        "with torch.no_grad(): logits = found['model'](torch.arange(3, 23)[None]).logits\n"
        "assert torch.equal(logits, torch.load(sys.argv[2])), 'logits'\n"
        "assert found['tokenizer']('roaming')['input_ids']\n"
        "assert not any(name.startswith('loratory') for name in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(path), str(tmp_path / "wanted.pt")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    loaded = load_model(ModelConfig(model_name_or_path=str(path), dtype="float32"), device="cpu")
    assert torch.equal(logits(loaded.model), logits(model))
    with pytest.raises(RunError, match="exists"):
        write_pickled(model, tiny_tokenizer, path)
    write_pickled(model, tiny_tokenizer, path, overwrite=True)


def test_a_model_with_foreign_parts_is_not_pickled(
    tiny_llama: LlamaForCausalLM, tiny_tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    class Mine(torch.nn.SiLU):
        pass

    tiny_llama.model.layers[0].mlp.act_fn = Mine()
    with pytest.raises(ModelError, match=r"Mine.*merge"):
        write_pickled(tiny_llama, tiny_tokenizer, tmp_path / "m.bin")
    assert not list(tmp_path.iterdir())
