import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from loratory.adapter import attach_adapter
from loratory.config import AdapterConfig
from loratory.engine.forecast.memory import GIB, MIB
from loratory.engine.memory_budget import MemoryRoom, PassMemory, max_pass_tokens, memory_room, pass_memory

CPU = torch.device("cpu")


def needs(
    path: str = "fused", *, checkpointing: bool = False, supervised_share: float = 0.5, on_cpu: bool = False
) -> PassMemory:
    """SmolLM2-135M's shapes without its weights."""
    config = LlamaConfig(
        hidden_size=576,
        intermediate_size=1536,
        num_hidden_layers=30,
        num_attention_heads=9,
        num_key_value_heads=3,
        vocab_size=49152,
        tie_word_embeddings=True,
    )
    with torch.device("meta"):
        model = LlamaForCausalLM(config)
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    return pass_memory(
        model,
        model,
        path=path,
        optimizer="adamw",
        supervised_share=supervised_share,
        gradient_checkpointing=checkpointing,
        is_mixed=False,
        on_cpu=on_cpu,
    )


def test_known_figures_of_a_small_model() -> None:
    assert needs().bytes_per_token / MIB == pytest.approx(0.66, abs=0.03)
    assert needs("tree").bytes_per_token / MIB == pytest.approx(1.4, abs=0.1)
    assert needs("padded").bytes_per_token / MIB == pytest.approx(2.0, abs=0.1)
    assert needs("padded", supervised_share=0.0).bytes_per_token == needs("tree").bytes_per_token
    assert needs("tree", checkpointing=True).bytes_per_token < needs("tree").bytes_per_token / 8
    assert needs("fused", on_cpu=True).bytes_per_token == needs().bytes_per_token
    assert needs("tree", on_cpu=True).bytes_per_token > 1.3 * needs("tree").bytes_per_token  # holes in the heap


def test_the_adapter_and_its_moments_count(tiny_llama: LlamaForCausalLM) -> None:
    model = attach_adapter(tiny_llama, AdapterConfig(rank=2), seed=0).model
    trained = sum(4 * p.numel() for p in model.parameters() if p.requires_grad)
    fixed = {
        name: pass_memory(
            model,
            tiny_llama,
            path="fused",
            optimizer=name,
            supervised_share=0.5,
            gradient_checkpointing=False,
            is_mixed=False,
            on_cpu=True,
        ).fixed_bytes
        for name in ("sgd", "adamw")
    }
    assert fixed["adamw"] - fixed["sgd"] == 4 * trained


@pytest.mark.parametrize(
    ("budget_gib", "device", "tokens"),
    [(100, "cpu", 2048), (100, "cuda", 8192), (1.5, "cpu", 1024), (1.0, "cpu", 512), (0.1, "cpu", 64)],
)
def test_a_power_of_two_within_the_budget(budget_gib: float, device: str, tokens: int) -> None:
    room = MemoryRoom(0, int(budget_gib * GIB), 0, is_given=True)
    assert max_pass_tokens(PassMemory(MIB, 384 * MIB), room, torch.device(device)) == tokens


def test_room_of_this_machine() -> None:
    found = memory_room(CPU, budget_gib=None)
    assert 0 < found.used_bytes < found.limit_bytes
    assert 0 < found.budget_bytes < found.limit_bytes - found.used_bytes
    shared = memory_room(CPU, budget_gib=None, num_processes=4)
    assert shared.budget_bytes < found.budget_bytes / 2
    given = memory_room(CPU, budget_gib=1000.0)
    assert (given.limit_bytes, given.is_given) == (1000 * GIB, True)
    assert given.budget_bytes == 1000 * GIB - given.used_bytes


def test_families_with_other_linear_layers_have_an_estimate(tiny_model_dir) -> None:  # type: ignore[no-untyped-def]
    model = AutoModelForCausalLM.from_pretrained(tiny_model_dir("gpt2"))
    found = pass_memory(
        model,
        model,
        path="tree",
        optimizer="sgd",
        supervised_share=1,
        gradient_checkpointing=False,
        is_mixed=False,
        on_cpu=True,
    )
    width, layers = model.config.hidden_size, model.config.num_hidden_layers
    assert found.bytes_per_token >= 2 * 4 * layers * 10 * width
