"""Rows behind virtual tokens: what PEFT's own `generate` says, token for token, also padded in one batch."""

from typing import Any

import peft
import pytest
import torch
from peft import PeftConfig, PeftModel, get_peft_model
from transformers import LlamaForCausalLM

from loratory.infer.generate import context_length, generate
from loratory.infer.virtual_tokens import num_virtual_tokens

pytestmark = pytest.mark.filterwarnings(
    "ignore:.*is_gradient_checkpointing:FutureWarning", "ignore:Position ids are not supported"
)
CONFIGS: dict[str, PeftConfig] = {
    "prompt_tuning": peft.PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=5),
    "p_tuning": peft.PromptEncoderConfig(task_type="CAUSAL_LM", num_virtual_tokens=5, encoder_hidden_size=8),
    "prefix_tuning": peft.PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=5),
    "cartridge": peft.CartridgeConfig(task_type="CAUSAL_LM", num_virtual_tokens=5),
    "cpt": peft.CPTConfig(
        task_type="CAUSAL_LM",
        cpt_token_ids=[5, 6, 7, 8, 9],
        cpt_mask=[1] * 5,
        cpt_tokens_type_mask=[1, 2, 3, 4, 4],
        opt_projection_epsilon=9.0,
        opt_projection_format_epsilon=9.0,
    ),
}


def adapted(model: LlamaForCausalLM, method: str) -> PeftModel:
    """Far from its start, so that the virtual tokens count."""
    torch.manual_seed(0)
    with torch.no_grad():
        model.lm_head.weight.mul_(8)
    found = get_peft_model(model, CONFIGS[method])
    with torch.no_grad():
        for parameter in found.parameters():
            if parameter.requires_grad:
                parameter.normal_(std=0.7)
    return found.eval()


@pytest.mark.parametrize("method", CONFIGS)
@pytest.mark.parametrize("batch_size", [1, 4])
def test_answers_are_those_of_peft(method: str, batch_size: int, tiny_llama: LlamaForCausalLM) -> None:
    bare_limit = context_length(tiny_llama)
    assert bare_limit is not None
    prompts = [[7, 9, 30], [11, 5, 8, 40, 12, 13, 99], [6], [21, 22, 23, 24]]
    without = generate(tiny_llama, prompts, stop_token_ids=[], max_new_tokens=8)
    model = adapted(tiny_llama, method)
    assert num_virtual_tokens(model) == 5
    assert context_length(model) == bare_limit - 5
    expected: list[Any] = []
    for prompt in prompts:
        ids = torch.tensor([prompt])
        made = model.generate(input_ids=ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=8,
                              eos_token_id=None, pad_token_id=0)  # fmt: skip
        expected.append(made[0, len(prompt) :].tolist())
    got = generate(model, prompts, stop_token_ids=[], max_new_tokens=8, batch_size=batch_size)
    assert got == expected
    assert got != without
