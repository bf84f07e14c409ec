"""The prompts on which two forms of a model are compared, and their logits."""

from collections.abc import Mapping, Sequence

import torch
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from loratory.adapter.base_form import BaseForm
from loratory.adapter.certificate import probe_logits
from loratory.adapter.skeleton import streaming

MAX_PROBE_TOKENS = 1024
MAX_LOGIT_BYTES = 24 << 20
"""Of one model's float32 logits: together with the other's they stay small beside a layer of any large model."""
MIN_PROMPT_TOKENS = 8
PROBE_TEXTS = (
    "The capital of France is Paris, and the largest city of Germany is",
    "Question: How do I cancel my roaming package?\nAnswer:",
    "def add(first, second):\n    return first +",
    "1 2 3 4 5 6 7 8 9 10 11 12",
    "请问如何取消流量包？ 我想换一个便宜的套餐。",
    "Below is an instruction that describes a task. Write a response that appropriately completes the request.\n\n"
    "### Instruction:\nName three colours.\n\n### Response:\n",
    "She opened the letter, read it twice, and then",
    "plan_98|9.9|activate; é, ü, 😀, and 'quotes'.",
)


def probe_prompts(
    tokenizer: PreTrainedTokenizerBase, model: PreTrainedModel, probes: Sequence[Sequence[int]]
) -> list[list[int]]:
    """Fixed and given prompts, cut to the model's context and so that their logits fit `MAX_LOGIT_BYTES`.

    Args:
        tokenizer: Encodes `PROBE_TEXTS`.
        model: Its context and vocabulary limit the length; a skeleton will do.
        probes: Token ids of further prompts.
    """
    found = [list(ids) for ids in (*(tokenizer(text)["input_ids"] for text in PROBE_TEXTS), *probes)]
    found = [ids for ids in found if ids]
    num_rows = model.get_input_embeddings().weight.shape[0]
    positions = min(MAX_PROBE_TOKENS, MAX_LOGIT_BYTES // (4 * num_rows))
    found = found[: max(1, positions // MIN_PROMPT_TOKENS)]
    room = max(MIN_PROMPT_TOKENS, positions // len(found))
    longest = getattr(model.config, "max_position_embeddings", None) or MAX_PROBE_TOKENS
    return [ids[: min(room, longest)] for ids in found]


def streamed_logits(
    model: nn.Module, parameters: Mapping[int, str], form: BaseForm, prompts: Sequence[Sequence[int]]
) -> list[torch.Tensor]:
    """`probe_logits` of a skeleton: each layer's weights are in memory only while it works."""
    with streaming(model, parameters, form):
        return probe_logits(model, prompts)
