"""Names of the common training arguments of other tools, and where they live here.

Only names with the same meaning and the same values stand in `FOREIGN_NAMES`; what needs a conversion is converted by
the reader of the tool's own file.
"""

from collections.abc import Mapping

FOREIGN_NAMES: Mapping[str, str] = {
    # model
    "base_model": "model.model_name_or_path",
    "model_path": "model.model_name_or_path",
    "torch_dtype": "model.dtype",
    "model_revision": "model.revision",
    "tokenizer_name": "model.tokenizer_name_or_path",
    # adapter
    "r": "adapter.rank",
    "lora_r": "adapter.rank",
    "lora_rank": "adapter.rank",
    "lora_alpha": "adapter.alpha",
    "lora_dropout": "adapter.dropout",
    "lora_target": "adapter.targets",
    "target_modules": "adapter.targets",
    "lora_target_modules": "adapter.targets",
    "additional_target": "adapter.modules_to_save",
    "exclude_modules": "adapter.exclude",
    "init_lora_weights": "adapter.init",
    "finetuning_type": "adapter.method",
    "adapter_name_or_path": "adapter.path",
    # data
    "dataset": "data.train",
    "dataset_name": "data.train",
    "dataset_path": "data.train",
    "dataset_name_or_path": "data.train",
    "data_path": "data.train",
    "data_file": "data.train",
    "train_file": "data.train",
    "train_path": "data.train",
    "train_data": "data.train",
    "train_data_path": "data.train",
    "train_dataset": "data.train",
    "validation_file": "data.validation",
    "eval_file": "data.validation",
    "eval_path": "data.validation",
    "eval_data": "data.validation",
    "eval_data_path": "data.validation",
    "eval_dataset": "data.validation",
    "test_file": "data.test",
    "test_path": "data.test",
    "val_set_size": "data.val_size",
    "validation_split": "data.val_size",
    "test_size": "data.val_size",
    "max_length": "data.cutoff_len",
    "max_seq_length": "data.cutoff_len",
    "max_seq_len": "data.cutoff_len",
    "sequence_len": "data.cutoff_len",
    "max_train_samples": "data.max_samples",
    "prompt_template": "data.template",
    "prompt_template_name": "data.template",
    "system_prompt": "data.system",
    # objective
    "algorithm": "objective.name",
    "stage": "objective.name",
    # train
    "num_train_epochs": "train.num_epochs",
    "epochs": "train.num_epochs",
    "lr": "train.learning_rate",
    "lr_scheduler_type": "train.schedule",
    "lr_scheduler": "train.schedule",
    "optim": "train.optimizer",
    "per_device_train_batch_size": "train.micro_batch_size",
    "load_best_model_at_end": "train.keep_best",
    # predict
    "per_device_eval_batch_size": "predict.batch_size",
    # run
    "experiment_name": "run.name",
    "run_name": "run.name",
    "wandb_project": "run.project",
    "report_to": "run.trackers",
}
