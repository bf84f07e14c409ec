"""Virtual tokens of a prompt-learning adapter as keys and values that stand before every row.

PEFT puts them in front at each forward pass, which fits training but no cache. What comes before a token does not
depend on what follows, so they are computed once, and the base model goes on from there. The twin is PEFT's forward.
"""

import torch
from peft import PeftModel
from transformers import Cache, DynamicCache, PreTrainedModel

from loratory.tree.eligibility import base_of


def num_virtual_tokens(model: PreTrainedModel | PeftModel) -> int:
    """Tokens that the adapter puts in front of each row; 0 for every other adapter and for none."""
    if not isinstance(model, PeftModel) or not model.active_peft_config.is_prompt_learning:
        return 0
    return int(model.active_peft_config.num_virtual_tokens)


@torch.inference_mode()
def virtual_cache(model: PeftModel) -> DynamicCache:
    """The cache of one row after its virtual tokens.

    Args:
        model: With a prompt-learning adapter, in evaluation mode.
    """
    found = model.get_prompt(batch_size=1)
    if isinstance(found, Cache):
        assert isinstance(found, DynamicCache)
        return found
    base = base_of(model)
    cache = DynamicCache(config=base.config)
    base(inputs_embeds=found.to(base.dtype), past_key_values=cache, use_cache=True, logits_to_keep=1)
    return cache
