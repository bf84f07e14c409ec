"""Section `train`: the one loop's knobs. Obeyed by `loratory.engine`."""

from typing import Literal, Self

from pydantic import Field, model_validator

from loratory.config.section import Section

Optimizer = Literal["adamw", "adamw_8bit", "paged_adamw", "paged_adamw_8bit", "sgd"]
Schedule = Literal["linear", "cosine", "constant"]


class TrainConfig(Section):
    """Steps, rates, batches, checkpoints."""

    num_epochs: float = Field(3.0, gt=0, description="Passes over the training rows.")
    max_steps: int | None = Field(None, ge=1, description="Optimizer steps; takes precedence over num_epochs.")
    batch_size: int = Field(16, ge=1, description="Rows per optimizer step, over all processes.")
    micro_batch_size: int | None = Field(
        None, ge=1, description="Rows per forward pass; default: as many as fit max_tokens_per_micro_batch."
    )
    max_tokens_per_micro_batch: int | None = Field(
        None,
        ge=1,
        description="Token budget of a forward pass; default, without micro_batch_size: from the memory budget.",
    )
    memory_budget_gib: float | None = Field(
        None,
        gt=0,
        description="GiB that a process may use, on the GPU if there is one; default: a share of what is free.",
    )
    probe: bool = Field(
        True, description="Try the longest batches and a checkpoint before training; short runs do without."
    )
    learning_rate: float = Field(2e-4, gt=0, description="Peak learning rate.")
    schedule: Schedule = Field("cosine", description="Shape of the learning rate after warm-up.")
    warmup_ratio: float = Field(0.03, ge=0, lt=1, description="Share of the steps with rising rate.")
    warmup_steps: int | None = Field(None, ge=0, description="Warm-up in steps; takes precedence over the ratio.")
    optimizer: Optimizer = Field("adamw", description="Optimizer; the 8-bit and paged forms need bitsandbytes.")
    weight_decay: float = Field(0.0, ge=0, description="Decoupled weight decay (not on biases and norms).")
    adam_beta1: float = Field(0.9, gt=0, lt=1)
    adam_beta2: float = Field(0.999, gt=0, lt=1)
    adam_epsilon: float = Field(1e-8, gt=0)
    max_grad_norm: float = Field(1.0, gt=0, description="Gradient norm above which gradients are scaled down.")
    loraplus_lr_ratio: float | None = Field(None, gt=0, description="LoRA+: rate of B over rate of A.")
    loraplus_lr_embedding: float = Field(1e-6, gt=0, description="LoRA+: rate of adapted embeddings.")
    precision: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        "auto", description="Mixed precision of the step; auto follows model.dtype."
    )
    gradient_checkpointing: bool = Field(False, description="Recompute activations: less memory, slower.")
    group_by_length: bool = Field(False, description="Put rows of similar length into a batch.")
    seed: int = Field(42, ge=0, description="Seed of order, initialisation and dropout.")
    num_threads: int | None = Field(None, ge=1, description="CPU threads; default: all cores.")
    logging_steps: int = Field(1, ge=1, description="Steps between lines of metrics.jsonl.")
    eval_steps: int | None = Field(None, ge=1, description="Steps between evaluations; default: each epoch.")
    save_steps: int | None = Field(None, ge=1, description="Steps between checkpoints; default: each epoch.")
    save_total_limit: int = Field(2, ge=1, description="Checkpoints kept (the best one is kept besides).")
    keep_best: bool = Field(True, description="final_model is the best checkpoint by evaluation loss, if evaluated.")
    early_stopping_patience: int | None = Field(
        None, ge=1, description="Evaluations without improvement before the run stops."
    )

    @model_validator(mode="after")
    def _micro_batch_fits(self) -> Self:
        if self.micro_batch_size is not None and self.micro_batch_size > self.batch_size:
            raise ValueError(
                f"micro_batch_size {self.micro_batch_size} is larger than batch_size {self.batch_size}; "
                "batch_size is the whole optimizer step"
            )
        return self
