"""Every method of the installed PEFT that can be merged is merged; every other one is refused in words."""

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from adapter.test_methods import METHODS, OPTIONS, logits, moved
from loratory.adapter import attach_adapter, save_adapter
from loratory.adapter.merge import merge_adapter
from loratory.config import AdapterConfig, ModelConfig
from loratory.errors import AdapterError
from loratory.model import load_model

pytestmark = pytest.mark.filterwarnings(
    "ignore:.*is_gradient_checkpointing:FutureWarning",
    "ignore:Failed to load the CUDA extension",
    "ignore:Unsupported layer",
    "ignore:Setting boft_n",
    "ignore:Sparse invariant",
)
# These add prompts, gates or steps of their own to the computation and change no weight of the base; PEFT has no merge
# of lily.
NOT_MERGED = {"adaption_prompt", "cartridge", "cpt", "lily", "p_tuning", "prefix_tuning", "prompt_tuning"}


@pytest.mark.parametrize("method", METHODS)
def test_merged_files_answer_as_the_adapter(method: str, tiny_llama_dir: Path, tmp_path: Path) -> None:
    base = ModelConfig(model_name_or_path=str(tiny_llama_dir), dtype="float32")
    loaded = load_model(base)
    section = AdapterConfig(method=method, options=OPTIONS.get(method, {}))
    model = moved(attach_adapter(loaded.model, section, seed=0).model)
    expected = logits(model)
    save_adapter(model, tmp_path / "adapter", base_identity=loaded.identity)
    if method in NOT_MERGED:
        with pytest.raises(AdapterError, match="merge"):
            merge_adapter(base, tmp_path / "adapter", tmp_path / "merged")
        assert [path.name for path in tmp_path.iterdir()] == ["adapter"]
        return
    certificate = merge_adapter(base, tmp_path / "adapter", tmp_path / "merged")
    assert certificate.measured.relative_logit_difference < 1e-4
    if method != "trainable_tokens":  # its tokens are in none of the probes
        assert certificate.effect.max_logit_difference > 10 * certificate.measured.max_logit_difference
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "merged").eval()
    torch.testing.assert_close(logits(merged), expected, rtol=1e-4, atol=1e-4)
