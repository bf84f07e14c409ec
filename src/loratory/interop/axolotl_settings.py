"""Axolotl's settings that are no value here: what makes the run differ, and what has no influence."""

from loratory.interop.rules import Table, approximated, ignored, not_honoured, only

_KERNEL = "the fastest exact kernel is chosen by the engine"
_LAUNCH = "this engine shares work out by itself; start several processes with torchrun or accelerate"
_NO_LIKE = "there is nothing like it here"
_ELSEWHERE = "the tracker's own settings"
_READING = "speed and memory of reading; the rows are the same"
_OBJECTIVE = "this parameter of the objective is not read"

NOT_DONE: Table = {
    **not_honoured(
        "rows are never packed: a batch counts rows here and packs of sequence_len tokens there",
        "sample_packing",
        "batch_flattening",
    ),
    **not_honoured("the tokenizer is used as it is", "tokens", "added_tokens_overrides"),
    **not_honoured("the tokenizer is used as it is", "chat_template_jinja", "eot_tokens", "tokenizer_type"),
    **not_honoured(_NO_LIKE, "peft_layer_replication", "peft_layers_to_transform", "peft_layers_pattern"),
    **not_honoured(_NO_LIKE, "peft_trainable_token_indices", "lora_target_parameters", "relora", "embedding_lr"),
    **not_honoured(_NO_LIKE, "relora_prune_ratio", "lr_groups", "cosine_min_lr_ratio", "optim_args", "fp8", "qat"),
    **not_honoured(_NO_LIKE, "lr_scheduler_kwargs", "unfrozen_parameters", "bnb_config_kwargs", "gptq"),
    **not_honoured(_NO_LIKE, "processor_type", "dataset_exact_deduplication", "curriculum_sampling", "plugins"),
    **not_honoured("its own settings are not read; the method's defaults hold", "peft"),
    **not_honoured("texts are rows of data.train here, with data.format: text", "pretraining_dataset"),
    **not_honoured(_LAUNCH, "deepspeed", "fsdp", "fsdp_config", "context_parallel_size", "tensor_parallel_size"),
    **not_honoured(_LAUNCH, "dp_shard_size", "dp_replicate_size", "sequence_parallel_degree"),
    **not_honoured(_OBJECTIVE, "cpo_alpha"),
    **not_honoured(_OBJECTIVE, "center_rewards_coefficient", "trl", "vllm", "num_labels"),
    **not_honoured(_OBJECTIVE, "reward_model", "process_reward_model"),
    **only(("sigmoid", ["sigmoid"]), _OBJECTIVE, "dpo_loss_type"),
    **only((True,), "rows come in random order", "shuffle_merged_datasets"),
    **only(("bitsandbytes",), "the base is quantised by bitsandbytes", "nf4_backend"),
    **only(("eval_loss", "loss"), "the best checkpoint is the one with the lowest loss", "metric_for_best_model"),
    **approximated("rows are read whole and shuffled over all of them", "streaming"),
    **approximated("done at the end of each epoch", "save_strategy", "eval_strategy"),
    **approximated("a loss that is not finite stops the run", "loss_watchdog_threshold", "loss_watchdog_patience"),
    **ignored(_KERNEL, "attn_implementation", "flash_attention", "sdp_attention", "xformers_attention"),
    **ignored(_KERNEL, "flex_attention", "eager_attention", "sage_attention", "torch_compile", "tf32", "float32"),
    **ignored(_KERNEL, "lora_mlp_kernel", "lora_qkv_kernel", "lora_o_kernel", "s2_attention"),
    **ignored("every token is computed once, without padding", "pad_to_sequence_len"),
    **ignored("only of use with sample_packing", "eval_sample_packing", "sample_packing_group_size"),
    **ignored("only of use with sample_packing", "sample_packing_bin_size", "sample_packing_sequentially"),
    **ignored(_READING, "dataset_prepared_path", "dataset_processes", "dataset_shard_num", "tokenizer_use_fast"),
    **ignored(
        "found from the base model", "base_model_config", "lora_fan_in_fan_out", "model_type", "is_llama_derived_model"
    ),
    **ignored("found from the base model", "peft_ensure_weight_tying"),
    **ignored("memory only", "activation_offloading", "gradient_checkpointing_kwargs", "low_cpu_mem_usage"),
    **ignored("nothing is sent anywhere by training", "hub_model_id", "hub_strategy", "push_dataset_to_hub"),
    **ignored("checkpoints are complete and published atomically", "save_safetensors", "save_only_model"),
    **ignored("checkpoints are complete and published atomically", "save_first_step"),
    **ignored("give --resume to `loratory train`", "resume_from_checkpoint", "auto_resume_from_checkpoints"),
    **ignored("merging is `loratory adapter merge`", "merge_method"),
    **ignored("exporting is a command of its own", "export", "quantization"),
    **ignored("only of use with fsdp", "fsdp_version"),
    **ignored("every step's memory and speed is in metrics.jsonl", "profiler_steps", "gc_steps"),
    **ignored("unknown keys are always errors", "strict"),
    **ignored(_ELSEWHERE, "wandb_entity", "wandb_watch", "wandb_name", "wandb_run_id", "wandb_log_model", "wandb_mode"),
    **ignored(_ELSEWHERE, "mlflow_tracking_uri", "mlflow_experiment_name", "mlflow_run_name", "use_wandb"),
    **ignored("there is no such tracker here", "use_comet", "comet_api_key", "comet_workspace", "comet_project_name"),
    **ignored("there is no such tracker here", "comet_experiment_key", "comet_mode", "comet_online"),
}
