"""The PEFT-style config.yaml."""

from typing import Any

import pytest

from loratory.config import RunConfig, build_config
from loratory.config.fields import config_fields
from loratory.errors import ConfigError
from loratory.interop.peft_document import Translation, is_peft_document, translate_peft_document
from loratory.interop.training_arguments import FOREIGN_NAMES

PEFT_CONFIG = {
    "r": 8,
    "lora_alpha": 16,
    "lora_dropout": 0.1,
    "target_modules": ["q_proj", "v_proj"],
    "bias": "none",
}
QUANTIZATION = {
    "load_in_4bit": True,
    "bnb_4bit_compute_dtype": "float16",
    "bnb_4bit_quant_type": "nf4",
    "bnb_4bit_use_double_quant": True,
}


def translate(document: dict[str, Any]) -> Translation:
    return translate_peft_document(document, native_keys=frozenset(config_fields()))


def read(document: dict[str, Any]) -> RunConfig:
    return build_config(dict(translate(document).values))


def model(**more: Any) -> dict[str, Any]:
    return {"model_name_or_path": "m", "use_peft": True, "peft_config": PEFT_CONFIG, **more}


def test_only_its_marks_make_a_file_a_peft_document() -> None:
    assert is_peft_document({"model": {"use_peft": False}})
    assert is_peft_document({"model": {"peft_config": {}}})
    assert is_peft_document({"model": {"quantization_config": None}})
    assert not is_peft_document({"model": {"model_name_or_path": "m"}, "data": {"train": "f"}})
    assert not is_peft_document({"model": "m"})
    assert not is_peft_document({})


def test_lora_is_use_peft_without_quantisation() -> None:
    config = read({"model": model()})
    assert config.adapter.method == "lora"
    assert config.adapter.rank == 8
    assert config.adapter.alpha == 16
    assert config.adapter.dropout == 0.1
    assert config.adapter.targets == ["q_proj", "v_proj"]
    assert config.adapter.bias == "none"
    assert not config.quantization.is_active


def test_qlora_is_use_peft_with_quantisation() -> None:
    config = read({"model": model(quantization_config=QUANTIZATION)})
    assert config.adapter.method == "lora"
    assert config.quantization.model_dump() == {**QUANTIZATION, "load_in_8bit": False}


def test_full_fine_tuning_is_use_peft_false() -> None:
    translation = translate({"model": model(use_peft=False)})
    assert build_config(dict(translation.values)).adapter.method == "full"
    assert any("model.peft_config (use_peft is false" in note for note in translation.notes)


@pytest.mark.parametrize(
    ("peft_config", "targets"),
    [({"r": 4}, "default"), ({"target_modules": "all-linear"}, "all"), ({"target_modules": "q.*"}, "q.*")],
)
def test_targets(peft_config: dict[str, Any], targets: str) -> None:
    assert read({"model": model(peft_config=peft_config)}).adapter.targets == targets


def test_training_arguments_are_found_in_any_section() -> None:
    document = {
        "model": model(torch_dtype="torch.bfloat16"),
        "training": {
            "learning_rate": 2e-4,
            "num_train_epochs": 3.0,
            "per_device_train_batch_size": 4,
            "gradient_accumulation_steps": 4,
            "warmup_ratio": 0.03,
            "lr_scheduler_type": "constant_with_warmup",
            "optim": "paged_adamw_32bit",
            "save_strategy": "steps",
            "save_steps": 100,
            "eval_strategy": "epoch",
            "max_steps": -1,
            "warmup_steps": 0,
            "bf16": True,
            "fp16": False,
            "report_to": ["tensorboard", "none"],
            "output_dir": "out",
        },
        "data": {"train_file": "rows.json", "max_seq_length": 512, "val_size": 0.1},
        "seed": 7,
    }
    config = read(document)
    assert config.model.dtype == "bfloat16"
    assert config.train.learning_rate == 2e-4
    assert config.train.num_epochs == 3
    assert config.train.micro_batch_size == 4
    assert config.train.batch_size == 16
    assert config.train.schedule == "constant"
    assert config.train.optimizer == "paged_adamw"
    assert config.train.save_steps == 100
    assert config.train.eval_steps is None
    assert config.train.max_steps is None
    assert config.train.warmup_steps is None
    assert config.train.precision == "bfloat16"
    assert config.train.seed == 7
    assert config.run.trackers == ["tensorboard"]
    assert config.run.output_dir == "out"
    assert config.data.train == "rows.json"
    assert config.data.cutoff_len == 512
    assert config.data.truncation == "truncate"
    assert config.data.val_size == 0.1


def test_sections_under_other_names_and_a_plain_batch_size() -> None:
    translation = translate(
        {
            "model": model(),
            "training": {"batch_size": 4, "gradient_accumulation_steps": 8, "seed": 3},
            "dataset": {"train": "rows.json", "format": "chat"},
            "generation": {"batch_size": 2, "do_sample": True},
        }
    )
    assert translation.values["train"] == {"seed": 3, "micro_batch_size": 4, "batch_size": 32}
    assert translation.values["data"] == {"train": "rows.json", "format": "chat"}
    assert translation.values["predict"] == {"batch_size": 2, "do_sample": True}
    assert any("train.batch_size = 4 x 8 = 32" in note for note in translation.notes)


def test_every_key_ends_in_the_values_or_in_a_note() -> None:
    translation = translate(
        {
            "model": model(trust_remote_code=True, device_map="auto"),
            "training": {"lr_scheduler_type": "polynomial", "optim": "lion", "dataloader_num_workers": 4},
            "logging": {"level": "info"},
            "debug": True,
        }
    )
    notes = "\n".join(translation.notes)
    for ignored in ("model.trust_remote_code", "model.device_map", "training.dataloader_num_workers", "logging.level"):
        assert ignored in notes
    assert "debug" in notes
    assert "training.lr_scheduler_type 'polynomial' becomes cosine" in notes
    assert "training.optim 'lion' becomes adamw" in notes
    assert translation.values["train"] == {"schedule": "cosine", "optimizer": "adamw"}


def test_strategies_without_steps() -> None:
    translation = translate(
        {"model": model(), "training": {"save_strategy": "epoch", "save_steps": 50, "eval_strategy": False}}
    )
    assert translation.values.get("train", {}) == {}
    notes = "\n".join(translation.notes)
    assert "training.save_steps (training.save_strategy is epoch)" in notes
    assert "training.eval_strategy is no" in notes
    steps = translate({"model": model(), "training": {"save_strategy": "steps"}})
    assert steps.values["train"] == {"save_steps": 500}


@pytest.mark.parametrize(
    ("document", "fault"),
    [
        ({"model": model(peft_config={"peft_type": "IA3"})}, "model.peft_config.peft_type: 'IA3' is not supported"),
        ({"model": model(peft_config={"task_type": "SEQ_CLS"})}, "model.peft_config.task_type"),
        ({"model": model(peft_config=[1])}, "model.peft_config: expected a mapping"),
        ({"model": model(use_peft="yes")}, "model.use_peft: should be true or false; got 'yes'"),
        ({"model": model(quantization_config=4)}, "model.quantization_config: expected a mapping"),
        (
            {"model": model(), "data": {"train_file": "a", "dataset_name": "b"}},
            "data.dataset_name: says 'b' where data.train_file says 'a'; both mean data.train; keep one",
        ),
        ({"model": model(), "t": {"per_device_train_batch_size": "4"}}, "batch size and accumulation should be whole"),
    ],
)
def test_contradictions_and_other_methods_are_faults(document: dict[str, Any], fault: str) -> None:
    with pytest.raises(ConfigError) as caught:
        translate(document)
    assert fault in str(caught.value)


def test_values_are_validated_as_ours_are() -> None:
    with pytest.raises(ConfigError, match=r"adapter\.rank: should be greater than or equal to 1; got 0"):
        read({"model": model(peft_config={"r": 0})})


def test_a_document_without_data_still_loads() -> None:
    assert read({"model": model()}).data.train == ""


def test_every_known_name_leads_to_a_field() -> None:
    assert set(FOREIGN_NAMES.values()) <= set(config_fields())
    assert not set(FOREIGN_NAMES) & {field.name for field in config_fields().values() if field.key.count(".") == 1}
