"""Loading adapters strictly: the table of wrong adapters that PEFT applies without a word, each refused here."""

import copy
import json
import logging
import socket
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, LlamaForCausalLM

from loratory.adapter import attach_adapter, load_adapter, read_adapter, save_adapter
from loratory.adapter.manifest import FILE_NAME, TENSORS_FILE, read_manifest
from loratory.config import AdapterConfig
from loratory.errors import AdapterError, IntegrityError, LoratoryError, NumericsError, UnsafeError

# Stock PEFT, used as the reference, reads an attribute that transformers renames.
pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing. is deprecated:FutureWarning")

IDS_BT = torch.arange(5, 25)[None]
BASE, OTHER = "b" * 64, "c" * 64
Q_A = "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight"


def logits(model: torch.nn.Module) -> torch.Tensor:
    with torch.no_grad():
        found: torch.Tensor = model.eval()(input_ids=IDS_BT).logits
    return found


@pytest.fixture
def base(tiny_llama: LlamaForCausalLM) -> LlamaForCausalLM:
    return tiny_llama


@pytest.fixture
def adapted(base: LlamaForCausalLM) -> PeftModel:
    model = attach_adapter(copy.deepcopy(base), AdapterConfig(rank=4), seed=0).model
    assert isinstance(model, PeftModel)
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.05)
    return model


@pytest.fixture
def folder(adapted: PeftModel, tmp_path: Path) -> Path:
    save_adapter(adapted, tmp_path / "adapter", base_identity=BASE)
    return tmp_path / "adapter"


@pytest.fixture
def foreign(folder: Path) -> Path:
    """The same adapter as another tool would have left it: without our manifest."""
    (folder / FILE_NAME).unlink()
    return folder


def load(base: LlamaForCausalLM, folder: Path, *, trainable: bool = False, identity: str | None = BASE) -> PeftModel:
    return load_adapter(base, folder, trainable=trainable, base_identity=identity)


def edit_tensors(folder: Path, edit: Callable[[dict[str, torch.Tensor]], object]) -> None:
    tensors = load_file(folder / TENSORS_FILE)
    edit(tensors)
    save_file(tensors, folder / TENSORS_FILE, metadata={"format": "pt"})


def edit_config(folder: Path, **values: object) -> None:
    path = folder / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def test_round_trip_is_exact_and_frozen(base: LlamaForCausalLM, adapted: PeftModel, folder: Path) -> None:
    loaded = load(base, folder)
    assert torch.equal(logits(loaded), logits(adapted))
    assert not any(parameter.requires_grad for parameter in loaded.parameters())


def test_trainable_weights_are_the_adapters_alone(base: LlamaForCausalLM, folder: Path) -> None:
    loaded = load(base, folder, trainable=True)
    assert {".lora_" in name for name, parameter in loaded.named_parameters() if parameter.requires_grad} == {True}


def test_stock_peft_reads_what_we_save(base: LlamaForCausalLM, adapted: PeftModel, folder: Path) -> None:
    assert torch.equal(logits(PeftModel.from_pretrained(base, str(folder))), logits(adapted))


def test_equal_weights_give_equal_bytes(adapted: PeftModel, folder: Path, tmp_path: Path) -> None:
    save_adapter(adapted, tmp_path / "again", base_identity=BASE)
    names = sorted(path.name for path in folder.iterdir() if path.name != "README.md")
    assert names == ["adapter_config.json", TENSORS_FILE, FILE_NAME]
    for name in names:
        assert (folder / name).read_bytes() == (tmp_path / "again" / name).read_bytes()


def test_saving_asks_no_hub(adapted: PeftModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("saving reached for the network")

    adapted.peft_config["default"].base_model_name_or_path = "some/base"
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(socket.socket, "connect", refuse)
    save_adapter(adapted, tmp_path, base_identity=BASE)


def test_nothing_that_is_not_finite_is_saved(adapted: PeftModel, tmp_path: Path) -> None:
    with torch.no_grad():
        next(p for p in adapted.parameters() if p.requires_grad)[0, 0] = float("nan")
    with pytest.raises(NumericsError, match="1 adapter tensors are not finite"):
        save_adapter(adapted, tmp_path / "never", base_identity=BASE)
    assert not (tmp_path / "never").exists()


def test_manifest_content(adapted: PeftModel, tmp_path: Path) -> None:
    save_adapter(adapted, tmp_path, base_identity=BASE, template={"name": "chat", "stop_token_ids": [4]})
    manifest = read_manifest(tmp_path)
    assert manifest is not None
    assert (manifest.base_identity, manifest.quantization) == (BASE, None)
    assert manifest.template == {"name": "chat", "stop_token_ids": [4]}


def test_another_base_names_both(base: LlamaForCausalLM, folder: Path) -> None:
    with pytest.raises(IntegrityError, match=r"base identity bbbbbbbbbbbbbbbb….*cccccccccccccccc…") as caught:
        load(base, folder, identity=OTHER)
    assert caught.value.exit_code == 4


def test_foreign_adapter_loads_with_a_warning(
    base: LlamaForCausalLM, adapted: PeftModel, foreign: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        loaded = load(base, foreign)
    assert torch.equal(logits(loaded), logits(adapted))
    assert "has no manifest" in caplog.text
    assert "has no manifest" in read_adapter(foreign, base_identity=BASE).warnings[0]


def edit_alpha(folder: Path) -> None:
    edit_config(folder, lora_alpha=800)


def flip_bit(folder: Path) -> None:
    content = bytearray((folder / TENSORS_FILE).read_bytes())
    content[-5] ^= 1
    (folder / TENSORS_FILE).write_bytes(content)


@pytest.mark.parametrize("change", [edit_alpha, flip_bit])
def test_changed_after_saving(base: LlamaForCausalLM, folder: Path, change: Callable[[Path], None]) -> None:
    change(folder)
    with pytest.raises(IntegrityError, match="was changed after the adapter was saved"):
        load(base, folder)


def rename_all(tensors: dict[str, torch.Tensor]) -> None:
    for name in list(tensors):
        tensors[name.replace("base_model.model", "base_model.other")] = tensors.pop(name)


WRONG_TENSORS: dict[str, tuple[Callable[[dict[str, torch.Tensor]], object], str]] = {
    "missing": (lambda t: t.pop(Q_A), "1 tensors are missing .first: .*q_proj.lora_A"),
    "missing module": (
        lambda t: [t.pop(name) for name in list(t) if "layers.0.self_attn.q_proj" in name],
        "1 modules that its config targets have no weights",
    ),
    "extra": (lambda t: t.update({"base_model.model.strange": torch.ones(2)}), "1 tensors are not the adapter's"),
    "extra layer": (
        lambda t: t.update({Q_A.replace("layers.0", "layers.7"): torch.ones(4, 32)}),
        "weights for 1 modules that LlamaForCausalLM lacks",
    ),
    "renamed": (rename_all, "does not fit this base"),
    "shape": (lambda t: t.update({Q_A: torch.ones(4, 31)}), r"is \(4, 31\), the base needs \(4, 32\)"),
    "nan": (lambda t: t[Q_A].fill_(float("nan")), "not finite numbers"),
    "inf": (lambda t: t[Q_A].fill_(float("inf")), "not finite numbers"),
    "integers": (lambda t: t.update({Q_A: torch.ones(4, 32, dtype=torch.int64)}), "not finite numbers"),
    "empty": (lambda t: t.clear(), "holds no tensors"),
}


@pytest.mark.parametrize("kind", list(WRONG_TENSORS))
def test_wrong_tensors(base: LlamaForCausalLM, foreign: Path, kind: str) -> None:
    edit, words = WRONG_TENSORS[kind]
    edit_tensors(foreign, edit)
    with pytest.raises(IntegrityError, match=words):
        load(base, foreign)


WRONG_CONFIGS: dict[str, tuple[dict[str, object], str]] = {
    "method": ({"peft_type": "BOGUS"}, "peft_type is 'BOGUS'"),
    "no method": ({"peft_type": None}, "peft_type is None"),
    "rank": ({"r": 10**9}, "rank 1000000000; allowed"),
    "rank zero": ({"r": 0}, "rank 0; allowed"),
    "rank text": ({"r": "8"}, "r: '8'; a finite number is needed"),
    "alpha": ({"lora_alpha": float("nan")}, "lora_alpha: nan; a finite number"),
    "unknown key": ({"use_dorra": True}, "use_dorra: True is not supported. Did you mean 'use_dora'"),
    "replication": ({"layer_replication": [[0, 4]]}, "layer_replication"),
    "megatron": ({"megatron_config": {"a": 1}}, "megatron_config"),
    "parameters": ({"target_parameters": ["x"]}, "target_parameters"),
    "pissa": ({"init_lora_weights": "pissa"}, "changed the base it was trained on"),
    "task": ({"task_type": "TOKEN_CLS"}, "allowed are CAUSAL_LM, SEQ_CLS, SEQ_2_SEQ_LM"),
    "other task": ({"task_type": "SEQ_CLS"}, "is for task SEQ_CLS, the model here is for CAUSAL_LM"),
    "targets": ({"target_modules": [1]}, "a list of names is needed"),
    "pattern": ({"rank_pattern": {"q_proj": "x"}}, "an object of name: number"),
    "flag": ({"use_dora": "yes"}, "true or false is needed"),
    "slow regex": ({"target_modules": "(.*?a){20}b|.*(.*?[a-z]){25}=="}, "took longer|does not fit|matches no module"),
    "long regex": ({"target_modules": "x|" * 400}, "allowed are 500"),
    "no such target": ({"target_modules": ["q_prj"]}, "Did you mean 'q_proj'"),
    "other targets": ({"target_modules": ["q_proj"]}, "12 with weights are not targeted"),
    "other rank": ({"r": 8}, r"is \(4, 64\), the base needs \(8, 64\)"),
}


@pytest.mark.parametrize("kind", list(WRONG_CONFIGS))
def test_wrong_config(base: LlamaForCausalLM, foreign: Path, kind: str) -> None:
    values, words = WRONG_CONFIGS[kind]
    edit_config(foreign, **values)
    with pytest.raises((AdapterError, IntegrityError), match=words):
        load(base, foreign)


def test_config_imports_and_fetches_nothing(
    base: LlamaForCausalLM, foreign: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "hostile_library.py").write_text(f"open({str(tmp_path / 'canary')!r}, 'w')")
    monkeypatch.syspath_prepend(str(tmp_path))
    edit_config(
        foreign,
        auto_mapping={"base_model_class": "X", "parent_library": "hostile_library"},
        megatron_core="hostile_library",
        base_model_name_or_path="https://example.invalid/x",
    )
    load(base, foreign)
    assert not (tmp_path / "canary").exists()


@pytest.mark.parametrize("content", ["{oops", "[]", "[" * 100_000, "\xff\xfe"])
def test_config_that_is_no_json(base: LlamaForCausalLM, foreign: Path, content: str) -> None:
    (foreign / "adapter_config.json").write_bytes(content.encode("latin-1"))
    with pytest.raises(AdapterError, match=r"adapter_config\.json"):
        load(base, foreign)


def test_huge_config(base: LlamaForCausalLM, foreign: Path) -> None:
    edit_config(foreign, base_model_name_or_path="x" * (2 << 20))
    with pytest.raises(AdapterError, match="larger than 1 MiB"):
        load(base, foreign)


def test_pickled_weights_are_refused(base: LlamaForCausalLM, foreign: Path) -> None:
    torch.save(load_file(foreign / TENSORS_FILE), foreign / "adapter_model.bin")
    (foreign / TENSORS_FILE).unlink()
    with pytest.raises(UnsafeError, match=r"adapter_model\.bin.*refused") as caught:
        load(base, foreign)
    assert caught.value.exit_code == 3


def test_not_an_adapter_folder(base: LlamaForCausalLM, tmp_path: Path) -> None:
    with pytest.raises(AdapterError, match=r"holds no adapter_config\.json"):
        load(base, tmp_path)
    with pytest.raises(AdapterError, match="does not exist"):
        load(base, tmp_path / "none")


@pytest.mark.parametrize("content", ["{", "{}", '{"format": 99}', '{"format": 1, "x": 2}'])
def test_broken_manifest(base: LlamaForCausalLM, folder: Path, content: str) -> None:
    (folder / FILE_NAME).write_text(content)
    with pytest.raises(IntegrityError, match=FILE_NAME):
        load(base, folder)


@pytest.mark.parametrize("content", [b"", b"{}", b"PK\x03\x04" * 100])
def test_unreadable_tensors(base: LlamaForCausalLM, foreign: Path, content: bytes) -> None:
    (foreign / TENSORS_FILE).write_bytes(content)
    with pytest.raises(IntegrityError, match="not readable as safetensors"):
        load(base, foreign)


def test_base_with_fewer_or_more_layers(foreign: Path, base: LlamaForCausalLM) -> None:
    for num_layers in (1, 3):
        config = copy.deepcopy(base.config)
        config.num_hidden_layers = num_layers
        config.layer_types = None
        with pytest.raises(IntegrityError, match="does not fit this base"):
            load(LlamaForCausalLM(config), foreign)


FOREIGN_CONFIGS: list[dict[str, object]] = [
    {"target_modules": "all-linear"},
    {"target_modules": r".*self_attn\.(q|v)_proj"},
    {
        "target_modules": ["q_proj"],
        "rank_pattern": {r"layers\.1\..*": 2},
        "alpha_pattern": {"layers.0.self_attn.q_proj": 3},
    },
    {"target_modules": ["q_proj"], "layers_to_transform": [1]},
    {"target_modules": ["q_proj"], "exclude_modules": ["model.layers.0.self_attn.q_proj"]},
    {"target_modules": ["q_proj"], "use_rslora": True, "use_dora": True, "lora_dropout": 0.1},
    {"target_modules": ["embed_tokens", "v_proj"]},
    {"target_modules": ["v_proj"], "modules_to_save": ["lm_head"], "bias": "all"},
]


@pytest.mark.filterwarnings("ignore:Setting `save_embedding_layers` to `True`:UserWarning")
@pytest.mark.filterwarnings("ignore:Could not find a config file:UserWarning")
@pytest.mark.parametrize("fields", FOREIGN_CONFIGS, ids=str)
def test_adapters_saved_by_stock_peft(base: LlamaForCausalLM, fields: dict[str, object], tmp_path: Path) -> None:
    stock = get_peft_model(copy.deepcopy(base), LoraConfig(task_type="CAUSAL_LM", r=4, **fields))
    with torch.no_grad():
        for parameter in stock.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn_like(parameter) * 0.05)
    stock.save_pretrained(str(tmp_path))
    try:
        loaded = load(base, tmp_path)
    except LoratoryError as fault:
        pytest.fail(str(fault))
    torch.testing.assert_close(logits(loaded), logits(stock), rtol=0, atol=1e-6)


def test_families_round_trip(tiny_model_dir: Callable[[str], Path], tmp_path: Path) -> None:
    for family in ("gpt2", "bloom", "gpt_neox"):
        base = AutoModelForCausalLM.from_pretrained(tiny_model_dir(family)).eval()
        model = attach_adapter(copy.deepcopy(base), AdapterConfig(rank=2), seed=0).model
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.requires_grad:
                    parameter.add_(0.05)
        assert isinstance(model, PeftModel)
        save_adapter(model, tmp_path / family, base_identity=BASE)
        assert torch.equal(logits(load(base, tmp_path / family)), logits(model))
