"""The heap of the C library in outline, by hand; and how much of it plain layers take."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from loratory.adapter import attach_adapter
from loratory.config import AdapterConfig, ModelConfig
from loratory.engine.forecast.activations import kept_per_token
from loratory.engine.forecast.heap import Heap
from loratory.engine.forecast.model_size import model_size
from loratory.model.empty_model import empty_model

TENSOR = 1 << 20


def test_a_block_that_was_freed_is_too_small_for_the_next_of_its_size() -> None:
    heap = Heap()
    first, second = heap.take(TENSOR), heap.take(TENSOR)
    before = heap.size
    heap.give(first)
    heap.take(TENSOR)
    assert heap.size - before == pytest.approx(TENSOR, rel=0.01)
    heap.give(second)
    assert heap.size == pytest.approx(3 * TENSOR, rel=0.01)


def test_smaller_tensors_take_what_was_freed() -> None:
    heap = Heap()
    place = heap.take(TENSOR)
    heap.take(TENSOR)
    before = heap.size
    heap.give(place)
    heap.take(TENSOR // 2)
    heap.take(TENSOR // 4)
    assert heap.size == before


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
def test_many_equal_layers_are_traced_by_few(tiny_model_dir: Callable[[str], Path], tmp_path: Path) -> None:
    found = {}
    for layers in (4, 8):
        text = (tiny_model_dir("llama") / "config.json").read_text()
        assert '"num_hidden_layers": 2' in text
        (tmp_path / "config.json").write_text(text.replace('"num_hidden_layers": 2', f'"num_hidden_layers": {layers}'))
        model = empty_model(ModelConfig(model_name_or_path=str(tmp_path)), device=torch.device("cpu")).model
        with torch.device("meta"):
            base = attach_adapter(model, AdapterConfig(rank=2), seed=0).model.train().get_base_model()
        size = model_size(base)
        for on_cpu in (False, True):
            found[layers, on_cpu] = kept_per_token(
                base, size, path="tree", gradient_checkpointing=False, is_mixed=False, on_cpu=on_cpu
            ).kept_bytes
        assert len(base.base_model.layers) == layers
        assert 1.2 < found[layers, True] / found[layers, False] < 2.0
    assert found[8, False] == pytest.approx(2 * found[4, False], rel=0.05)


def test_matrices_of_a_moment_leave_room_for_all_weights_on_a_cpu(tiny_model_dir: Callable[[str], Path]) -> None:
    def besides(section: AdapterConfig, *, on_cpu: bool) -> tuple[float, int]:
        source = ModelConfig(model_name_or_path=str(tiny_model_dir("llama")))
        model = empty_model(source, device=torch.device("cpu")).model
        with torch.device("meta"):
            base = attach_adapter(model, section, seed=0).model.train().get_base_model()
        size = model_size(base)
        kept = kept_per_token(base, size, path="tree", gradient_checkpointing=False, is_mixed=False, on_cpu=on_cpu)
        return kept.pass_bytes, 4 * sum(each.inputs * each.outputs for each in size.linears)

    plain, _ = besides(AdapterConfig(rank=2), on_cpu=True)
    dora, weights = besides(AdapterConfig(rank=2, use_dora=True), on_cpu=True)
    assert plain < weights <= dora
    assert besides(AdapterConfig(rank=2, use_dora=True), on_cpu=False)[0] < weights
