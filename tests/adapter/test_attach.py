"""Attaching adapters: what is trained, from which start, and what is refused."""

import copy
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, LlamaForCausalLM

from loratory.adapter import attach_adapter, load_adapter, save_adapter
from loratory.config import AdapterConfig
from loratory.errors import AdapterError, IntegrityError

# Stock PEFT, used as the reference, reads an attribute that transformers renames.
pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing. is deprecated:FutureWarning")

IDS_BT = torch.arange(5, 25)[None]
BASE = "b" * 64


def logits(model: torch.nn.Module) -> torch.Tensor:
    with torch.no_grad():
        found: torch.Tensor = model.eval()(input_ids=IDS_BT).logits
    return found


def trained(model: torch.nn.Module) -> dict[str, torch.nn.Parameter]:
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}


def train_a_bit(model: torch.nn.Module, seed: int = 3) -> None:
    """Move every trained weight, as a few steps would."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in trained(model).values():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.05)


def test_new_adapter_is_the_base_at_first(tiny_llama: LlamaForCausalLM) -> None:
    before = logits(tiny_llama)
    attached = attach_adapter(tiny_llama, AdapterConfig(), seed=0)
    assert torch.equal(logits(attached.model), before)
    assert all(".lora_" in name for name in trained(attached.model))


def test_counts(tiny_llama: LlamaForCausalLM) -> None:
    base = sum(p.numel() for p in tiny_llama.parameters())
    report = attach_adapter(tiny_llama, AdapterConfig(rank=4, targets=["q_proj", "v_proj"]), seed=0).report
    # q: 32 -> 32 and v: 32 -> 16 (2 of 4 heads), rank 4, two layers.
    assert [(t.name, t.num_layers, t.num_parameters) for t in report.targets] == [
        ("q_proj", 2, 2 * 4 * (32 + 32)),
        ("v_proj", 2, 2 * 4 * (32 + 16)),
    ]
    assert report.trainable == 896
    assert report.total == base + 896
    assert report.share == pytest.approx(896 / (base + 896))
    assert "q_proj x2" in report.describe()


def test_alpha_defaults_to_twice_the_rank(tiny_llama: LlamaForCausalLM) -> None:
    model = attach_adapter(tiny_llama, AdapterConfig(rank=4), seed=0).model
    assert isinstance(model, PeftModel)
    assert model.get_base_model().model.layers[0].self_attn.q_proj.scaling["default"] == 2.0


@pytest.mark.parametrize(("use_rslora", "scale"), [(False, 8 / 4), (True, 8 / 2)])
def test_scale(tiny_llama: LlamaForCausalLM, use_rslora: bool, scale: float) -> None:
    model = attach_adapter(tiny_llama, AdapterConfig(rank=4, alpha=8, use_rslora=use_rslora), seed=0).model
    assert model.get_base_model().model.layers[0].self_attn.q_proj.scaling["default"] == scale


def test_seed_decides_the_start_and_the_generator_is_left_alone(tiny_llama: LlamaForCausalLM) -> None:
    def start(seed: int) -> torch.Tensor:
        model = attach_adapter(copy.deepcopy(tiny_llama), AdapterConfig(), seed=seed).model
        return torch.cat([p.detach().flatten() for p in trained(model).values()])

    torch.manual_seed(11)
    first = start(1)
    drawn = torch.rand(1)
    torch.manual_seed(11)
    assert torch.equal(drawn, torch.rand(1))
    assert torch.equal(first, start(1))
    assert not torch.equal(first, start(2))


def test_adapter_is_float32_on_a_bfloat16_base(tiny_llama: LlamaForCausalLM) -> None:
    model = attach_adapter(tiny_llama.bfloat16(), AdapterConfig(), seed=0).model
    assert {p.dtype for p in trained(model).values()} == {torch.float32}


def test_patterns(tiny_llama: LlamaForCausalLM) -> None:
    section = AdapterConfig(
        rank=4, rank_pattern={"q_proj": 2}, alpha_pattern={r".*layers\.1\..*v_proj": 64}, targets=["q_proj", "v_proj"]
    )
    layers = attach_adapter(tiny_llama, section, seed=0).model.get_base_model().model.layers
    assert layers[0].self_attn.q_proj.r["default"] == 2
    assert layers[0].self_attn.v_proj.r["default"] == 4
    assert [layer.self_attn.v_proj.scaling["default"] for layer in layers] == [2.0, 16.0]


@pytest.mark.parametrize("bias", ["all", "lora_only"])
def test_biases_are_trained(bias: str, tiny_model_dir: Callable[[str], Path]) -> None:
    model = AutoModelForCausalLM.from_pretrained(tiny_model_dir("qwen2"))
    names = set(trained(attach_adapter(model, AdapterConfig(bias=bias, targets=["q_proj"]), seed=0).model))
    assert any("q_proj.base_layer.bias" in name for name in names)
    assert any("k_proj.bias" in name for name in names) is (bias == "all")


WHOLE = [("llama", "lm_head"), ("llama", "norm"), ("gemma", "embed_tokens"), ("gpt2", "wte"), ("bloom", "lm_head")]


@pytest.mark.parametrize(("family", "name"), WHOLE)
def test_whole_modules_are_trained_saved_and_kept_tied(
    family: str, name: str, tiny_model_dir: Callable[[str], Path], tmp_path: Path
) -> None:
    model = AutoModelForCausalLM.from_pretrained(tiny_model_dir(family)).eval()
    before = logits(model)
    is_tied = model.get_output_embeddings().weight is model.get_input_embeddings().weight
    original = copy.deepcopy(model)
    adapted = attach_adapter(model, AdapterConfig(modules_to_save=[name], targets="default"), seed=0).model
    assert torch.equal(logits(adapted), before)
    if name != "norm":
        assert any("modules_to_save" in full for full in trained(adapted))
    train_a_bit(adapted)
    base = adapted.get_base_model()
    if is_tied:
        head, embedding = base.get_output_embeddings(), base.get_input_embeddings()
        assert head.modules_to_save["default"].weight is embedding.modules_to_save["default"].weight
    assert isinstance(adapted, PeftModel)
    save_adapter(adapted, tmp_path, base_identity=BASE)
    moved = logits(adapted)
    for again in (
        load_adapter(copy.deepcopy(original), tmp_path, trainable=False, base_identity=BASE),
        PeftModel.from_pretrained(original, str(tmp_path)),
    ):
        assert torch.equal(logits(again), moved)


def test_full_trains_everything(tiny_llama: LlamaForCausalLM) -> None:
    attached = attach_adapter(tiny_llama, AdapterConfig(method="full"), seed=0)
    assert attached.model is tiny_llama
    assert attached.report.share == 1
    assert all(parameter.requires_grad for parameter in tiny_llama.parameters())


INITS = [{"init": "pissa"}, {"init": "pissa_niter_4"}, {"init": "olora"}, {"init": "pissa", "use_rslora": True}]


@pytest.mark.parametrize("fields", INITS, ids=str)
def test_base_changing_inits_save_as_plain_lora(
    tiny_llama: LlamaForCausalLM, fields: dict[str, object], tmp_path: Path
) -> None:
    original = copy.deepcopy(tiny_llama)
    before = logits(tiny_llama)
    section = AdapterConfig(rank=4, rank_pattern={"o_proj": 2}, **fields)
    model = attach_adapter(tiny_llama, section, seed=0).model
    torch.testing.assert_close(logits(model), before, rtol=0, atol=1e-5)
    train_a_bit(model)
    moved = logits(model)
    assert not torch.allclose(moved, before, atol=1e-3)
    assert isinstance(model, PeftModel)
    save_adapter(model, tmp_path, base_identity=BASE)
    ours = load_adapter(copy.deepcopy(original), tmp_path, trainable=False, base_identity=BASE)
    torch.testing.assert_close(logits(ours), moved, rtol=0, atol=1e-5)
    stock = PeftModel.from_pretrained(original, str(tmp_path))
    torch.testing.assert_close(logits(stock), moved, rtol=0, atol=1e-5)


@pytest.fixture
def earlier(tiny_llama: LlamaForCausalLM, tmp_path: Path) -> tuple[Path, torch.Tensor]:
    """A trained adapter on q_proj and v_proj, and the logits it gives."""
    model = attach_adapter(copy.deepcopy(tiny_llama), AdapterConfig(rank=4, targets=["q_proj", "v_proj"]), seed=0).model
    train_a_bit(model)
    save_adapter(model, tmp_path / "earlier", base_identity=BASE)
    return tmp_path / "earlier", logits(model)


def test_continue_an_adapter(tiny_llama: LlamaForCausalLM, earlier: tuple[Path, torch.Tensor]) -> None:
    path, before = earlier
    attached = attach_adapter(tiny_llama, AdapterConfig(path=str(path), dropout=0.25), seed=9, base_identity=BASE)
    assert torch.equal(logits(attached.model), before)
    assert attached.report.trainable == 896
    assert attached.model.get_base_model().model.layers[0].self_attn.q_proj.lora_dropout["default"].p == 0.25


def test_continue_on_another_base(tiny_llama: LlamaForCausalLM, earlier: tuple[Path, torch.Tensor]) -> None:
    with pytest.raises(IntegrityError, match="another base"):
        attach_adapter(tiny_llama, AdapterConfig(path=str(earlier[0])), seed=0, base_identity="c" * 64)


def test_continue_with_another_rank(tiny_llama: LlamaForCausalLM, earlier: tuple[Path, torch.Tensor]) -> None:
    with pytest.raises(AdapterError, match=r"adapter\.rank: 16, but the adapter .* has 4"):
        attach_adapter(tiny_llama, AdapterConfig(path=str(earlier[0]), rank=16), seed=0)


def test_new_adapter_on_a_merged_one_saves_their_sum(
    tiny_llama: LlamaForCausalLM, earlier: tuple[Path, torch.Tensor], tmp_path: Path
) -> None:
    path, before = earlier
    original = copy.deepcopy(tiny_llama)
    section = AdapterConfig(path=str(path), create_new_adapter=True, rank=2, targets=["q_proj", "o_proj"])
    model = attach_adapter(tiny_llama, section, seed=1, base_identity=BASE).model
    torch.testing.assert_close(logits(model), before, rtol=0, atol=1e-5)
    train_a_bit(model, seed=4)
    moved = logits(model)
    assert isinstance(model, PeftModel)
    save_adapter(model, tmp_path / "sum", base_identity=BASE)
    again = load_adapter(original, tmp_path / "sum", trainable=False, base_identity=BASE)
    torch.testing.assert_close(logits(again), moved, rtol=0, atol=1e-5)
    ranks = {name: module.r["default"] for name, module in again.named_modules() if hasattr(module, "lora_A")}
    assert sorted(set(ranks.values())) == [2, 4, 6]


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"init": "pisa"}, "'pisa' is unknown.*Did you mean 'pissa'"),
        ({"init": "orthogonal", "rank": 3}, "even rank"),
        ({"init": "pissa", "use_dora": True}, "do not go with init 'pissa'"),
        ({"create_new_adapter": True}, "adapter.path is missing"),
        ({"modules_to_save": ["wte"]}, "'wte' is no module of LlamaForCausalLM"),
        ({"rank_pattern": {"q_prj": 2}}, "'q_prj' matches no targeted module"),
        ({"method": "full", "path": "x"}, "merge it into the base first"),
        ({"path": "no-such-folder"}, "'no-such-folder' does not exist"),
    ],
)
def test_contradictions(tiny_llama: LlamaForCausalLM, fields: dict[str, object], words: str) -> None:
    with pytest.raises(AdapterError, match=words):
        attach_adapter(tiny_llama, AdapterConfig(**fields), seed=0)


def test_transposed_layers_take_no_pissa(tiny_model_dir: Callable[[str], Path]) -> None:
    model = AutoModelForCausalLM.from_pretrained(tiny_model_dir("gpt2"))
    with pytest.raises(AdapterError, match="pissa needs plain Linear layers"):
        attach_adapter(model, AdapterConfig(init="pissa"), seed=0)


def test_an_adapted_model_is_not_adapted_again(tiny_llama: LlamaForCausalLM) -> None:
    attach_adapter(tiny_llama, AdapterConfig(), seed=0)
    with pytest.raises(AdapterError, match="carries an adapter already"):
        attach_adapter(tiny_llama, AdapterConfig(), seed=0)


def test_layer_that_would_train_nothing(tiny_llama: LlamaForCausalLM) -> None:
    from loratory.adapter.trainable import count_trainable

    tiny_llama.requires_grad_(True)
    tiny_llama.model.layers[1].mlp.requires_grad_(False)
    with pytest.raises(AdapterError, match=r"1 targeted layers would train nothing \(first: model\.layers\.1\.mlp"):
        count_trainable(tiny_llama, ["lm_head", "model.layers.1.mlp.up_proj"])


def test_embedding_and_head_as_targets(tiny_llama: LlamaForCausalLM, tmp_path: Path) -> None:
    original = copy.deepcopy(tiny_llama)
    section = AdapterConfig(rank=2, targets=["q_proj", "embed_tokens", "lm_head"])
    adapted = attach_adapter(tiny_llama, section, seed=0).model
    torch.testing.assert_close(logits(adapted), logits(original), rtol=0, atol=1e-6)
    train_a_bit(adapted)
    assert isinstance(adapted, PeftModel)
    save_adapter(adapted, tmp_path, base_identity=BASE)
    again = load_adapter(original, tmp_path, trainable=False, base_identity=BASE)
    torch.testing.assert_close(logits(again), logits(adapted), rtol=0, atol=1e-6)


def test_shared_embedding_is_no_lora_target(tiny_model_dir: Callable[[str], Path]) -> None:
    model = AutoModelForCausalLM.from_pretrained(tiny_model_dir("gemma"))
    with pytest.raises(AdapterError, match=r"embed_tokens and lm_head share one weight.*modules_to_save"):
        attach_adapter(model, AdapterConfig(targets=["q_proj", "lm_head"]), seed=0)
