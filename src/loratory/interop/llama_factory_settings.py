"""LLaMA-Factory's settings of model, prediction and special optimizers: mostly what is not done here, and why."""

from typing import Any

from loratory.interop.draft import Draft
from loratory.interop.rules import (
    Table,
    approximated,
    ignored,
    is_off,
    known_elsewhere,
    not_honoured,
    only,
    same_name,
    together,
)
from loratory.interop.trainer_settings import read_trust

_NO_OPTIMIZER = "there is no such optimizer here; plain AdamW is taken"
_NO_LOSS = "there is no such loss here; cross-entropy is taken"
_NO_LIKE = "there is nothing like it here"


def _family(prefix: str, *names: str) -> tuple[str, ...]:
    return tuple(f"{prefix}_{name}" for name in names)


def _read_revision(draft: Draft, key: str, value: Any) -> None:
    if value != "main":
        draft.put("model.revision", value, origin=key)


def _read_top_k(draft: Draft, key: str, value: Any) -> None:
    draft.put("predict.top_k", max(0, value) if isinstance(value, int) else value, origin=key)


def _read_neutral(neutral: object) -> Table:
    def rule(draft: Draft, name: str, value: Any) -> None:
        if value != neutral and not is_off(value):
            draft.report("not honoured", name, "prediction samples plainly, without this")

    return {"rule": rule}


MODEL_RULES: Table = {
    **same_name("model", "model_name_or_path"),
    "model_revision": _read_revision,
    "trust_remote_code": read_trust,
    **same_name("predict", "do_sample", "temperature", "top_p", "max_new_tokens"),
    "top_k": _read_top_k,
    "num_beams": _read_neutral(1)["rule"],
    "repetition_penalty": _read_neutral(1.0)["rule"],
    "length_penalty": _read_neutral(1.0)["rule"],
    **together("quantization_bit", "quantization_type", "double_quantization", "disable_gradient_checkpointing"),
    **only(("bnb", "bitsandbytes", "BNB", None), "the base is quantised by bitsandbytes", "quantization_method"),
    **known_elsewhere("tokenizer_name"),
    **not_honoured("the base is used as it is", "rope_scaling", "mixture_of_depths", "train_from_scratch"),
    **not_honoured("the base is used as it is", "shift_attn", "moe_aux_loss_coef"),
    **not_honoured("the tokenizer and the embeddings are used as they are", "resize_vocab", "add_tokens"),
    **not_honoured("the tokenizer and the embeddings are used as they are", "add_special_tokens"),
    **not_honoured("the tokenizer and the embeddings are used as they are", "new_special_tokens_config"),
    **approximated("text of a row never becomes a control token, whatever this says", "split_special_tokens"),
    **approximated("train.precision decides", "upcast_layernorm", "upcast_lmhead_output"),
    **ignored("the fastest exact kernel is chosen by the engine", "flash_attn", "use_unsloth", "use_unsloth_gc"),
    **ignored("the fastest exact kernel is chosen by the engine", "enable_liger_kernel", "use_v1_kernels"),
    **ignored("the fastest exact kernel is chosen by the engine", "use_reentrant_gc", "use_kv_cache"),
    **ignored("only of use with resize_vocab", "init_special_tokens"),
    **ignored("where and how files are loaded", "cache_dir", "use_fast_tokenizer", "low_cpu_mem_usage"),
    **ignored("where and how files are loaded", "adapter_folder", "offload_folder", "quantization_device_map"),
    **ignored("tokens of hubs are read from the environment", "hf_hub_token", "ms_hub_token", "om_hub_token"),
    **ignored("`loratory adapter show` prints it", "print_param_status"),
    **ignored("training has nothing to do with it", "infer_backend", "infer_dtype", "max_length"),
    **ignored("training has nothing to do with it", "skip_special_tokens"),
    **ignored("training has nothing to do with it", *_family("vllm", "maxlen", "gpu_util", "enforce_eager", "config")),
    **ignored("training has nothing to do with it", "vllm_max_lora_rank"),
    **ignored("training has nothing to do with it", *_family("sglang", "maxlen", "mem_fraction", "tp_size", "config")),
    **ignored("merging is `loratory adapter merge`", *_family("export", "dir", "size", "device", "hub_model_id")),
    **ignored("merging is `loratory adapter merge`", *_family("export_quantization", "bit", "dataset", "nsamples")),
    **ignored("merging is `loratory adapter merge`", "export_quantization_maxlen", "export_legacy_format"),
}

OTHER_METHODS: Table = {
    **not_honoured(_NO_OPTIMIZER, *_family("use", "galore", "apollo", "badam", "adam_mini", "muon")),
    **not_honoured(_NO_LOSS, *_family("use", "dft_loss", "asft_loss", "eaft_loss")),
    **not_honoured(_NO_LIKE, *_family("use", "llama_pro", "mca", "hyper_parallel"), "hyper_parallel_args", "ld_alpha"),
    **ignored("only of use with its loss", "asft_alpha", "eaft_alpha"),
    **ignored(
        "only of use with GaLore",
        *_family("galore", "target", "rank", "update_interval", "scale", "proj_type", "layerwise"),
    ),
    **ignored("only of use with APOLLO", *_family("apollo", "target", "rank", "update_interval", "scale", "proj")),
    **ignored("only of use with APOLLO", *_family("apollo", "proj_type", "scale_type", "layerwise", "scale_front")),
    **ignored("only of use with BAdam", *_family("badam", "mode", "start_block", "switch_mode", "switch_interval")),
    **ignored("only of use with BAdam", *_family("badam", "update_ratio", "mask_mode", "verbose")),
    **ignored("there is no such tracker here", "use_swanlab", *_family("swanlab", "project", "workspace", "run_name")),
    **ignored("there is no such tracker here", *_family("swanlab", "mode", "api_key", "logdir", "lark_webhook_url")),
    **ignored("there is no such tracker here", "swanlab_lark_secret"),
    **ignored("the model has no vision parts", *_family("freeze", "vision_tower", "multi_modal_projector")),
    **not_honoured("the model has no vision parts", "freeze_language_model"),
    **not_honoured("which layers are trained cannot be chosen by number", "freeze_trainable_layers"),
    **not_honoured("which layers are trained cannot be chosen by number", "freeze_trainable_modules"),
    **not_honoured("which layers are trained cannot be chosen by number", "freeze_extra_modules"),
    **not_honoured("its own settings are not read; the method's defaults hold", "module_dropout", "oft_rank"),
    **not_honoured("its own settings are not read; the method's defaults hold", "oft_block_size", "oft_target"),
    **not_honoured("this parameter of the objective is not read", "pref_bco_weight"),
    **not_honoured("this parameter of the objective is not read", "ref_model_adapters"),
    **not_honoured("this parameter of the objective is not read", "ref_model_quantization_bit"),
    **not_honoured("this parameter of the objective is not read", "reward_model_adapters"),
    **not_honoured("this parameter of the objective is not read", "reward_model_quantization_bit"),
    **only(("lora", None), "the reward model is one trained here", "reward_model_type"),
    **only((1, None), "this parameter of the objective is not read", "ppo_buffer_size"),
    **not_honoured("this parameter of the objective is not read", "ppo_score_norm"),
}
