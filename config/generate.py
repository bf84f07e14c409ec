"""`python config/generate.py` writes the ready adapter files of this folder; the first one is kept as documented."""

import json
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).resolve().parent
LLAMA = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
ATTENTION = LLAMA[:4]
CAUSAL = {"task_type": "CAUSAL_LM", "inference_mode": False}


def lora(rank: int, targets: list[str], **more: Any) -> dict[str, Any]:
    """LoRA in the manner of the first file: alpha twice the rank."""
    return {
        "peft_type": "LORA",
        **CAUSAL,
        "r": rank,
        "target_modules": targets,
        "lora_alpha": 2 * rank,
        "lora_dropout": 0.1,
        "bias": "none",
        **more,
    }


def method(kind: str, targets: list[str], **options: Any) -> dict[str, Any]:
    """Another method that adapts layers."""
    return {"peft_type": kind, **CAUSAL, "target_modules": targets, **options}


FILES: dict[str, dict[str, Any]] = {
    **{f"lora_llama2_7b_rank{rank}": lora(rank, LLAMA, inference_mode=True) for rank in (8, 16, 64)},
    "rslora_llama2_7b_rank64": lora(64, LLAMA, use_rslora=True),
    "dora_llama2_7b_rank16": lora(16, LLAMA, use_dora=True),
    "pissa_llama2_7b_rank16": lora(16, LLAMA, init_lora_weights="pissa_niter_4", lora_dropout=0.0),
    "olora_llama2_7b_rank16": lora(16, LLAMA, init_lora_weights="olora", lora_dropout=0.0),
    "eva_llama2_7b_rank16": lora(16, LLAMA, init_lora_weights="eva", eva_config={"rho": 2.0}, lora_alpha=1),
    "loftq_llama2_7b_rank16": lora(16, LLAMA, init_lora_weights="loftq", loftq_config={"loftq_bits": 4}),
    "corda_llama2_7b_rank16": lora(16, LLAMA, init_lora_weights="corda", corda_config={"corda_method": "kpm"}),
    "adalora_llama2_7b": method("ADALORA", LLAMA, init_r=12, target_r=8, lora_alpha=32, tinit=200, total_step=3000),
    "oft_llama2_7b": method("OFT", LLAMA, oft_block_size=32),
    "boft_llama2_7b": method("BOFT", ATTENTION, boft_block_size=4, boft_n_butterfly_factor=2),
    "ia3_llama2_7b": method("IA3", ["k_proj", "v_proj", "down_proj"], feedforward_modules=["down_proj"]),
    "vera_llama2_7b": method("VERA", ["q_proj", "o_proj"], r=256),
    "loha_qwen2": method("LOHA", LLAMA, r=8, alpha=16),
    "lokr_qwen2": method("LOKR", LLAMA, r=8, alpha=16),
    "hra_qwen2": method("HRA", ATTENTION, r=8),
    "lora_qwen2_rank16": lora(16, LLAMA),
    "miss_mistral": method("MISS", LLAMA, r=64),
    "randlora_mistral": method("RANDLORA", LLAMA, r=32),
    "lora_mistral_rank16": lora(16, LLAMA),
    "ln_tuning_gemma": method("LN_TUNING", ["input_layernorm", "post_attention_layernorm", "norm"]),
    "fourierft_gemma": method("FOURIERFT", ATTENTION, n_frequency=1000, scaling=150.0),
    "lora_gemma_rank16": lora(16, LLAMA),
    "shira_mistral": method("SHIRA", LLAMA, r=32),
    "c3a_llama2_7b": method("C3A", ATTENTION, block_size=256),
    "lora_bloom_rank16": lora(16, ["query_key_value", "dense", "dense_h_to_4h", "dense_4h_to_h"]),
    "prompt_tuning_bloom": {"peft_type": "PROMPT_TUNING", **CAUSAL, "num_virtual_tokens": 8},
    "lora_gpt2_rank8": lora(8, ["c_attn"], fan_in_fan_out=True),
    "prefix_tuning_gpt2": {"peft_type": "PREFIX_TUNING", **CAUSAL, "num_virtual_tokens": 20},
    "p_tuning_gpt2": {
        "peft_type": "P_TUNING",
        **CAUSAL,
        "num_virtual_tokens": 20,
        "encoder_hidden_size": 128,
    },
    "lora_t5_rank8": lora(8, ["q", "v"], task_type="SEQ_2_SEQ_LM"),
    "lora_bert_rank8": lora(8, ["query", "value"], task_type="SEQ_CLS", modules_to_save=["classifier"]),
}


def text_of(values: dict[str, Any]) -> str:
    """A file's content."""
    return json.dumps(values, indent=2) + "\n"


if __name__ == "__main__":
    for name, values in FILES.items():
        (FOLDER / f"{name}.json").write_text(text_of(values), encoding="utf-8")
    print(f"wrote {len(FILES)} files")
