import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from loratory.adapter import attach_adapter
from loratory.config import AdapterConfig, ModelConfig
from loratory.data.sequence import TokenSequence
from loratory.errors import ConfigError, ModelError
from loratory.model import load_model
from loratory.model.uneven import UNEVEN_FAMILIES, shapes_of
from loratory.prune.calibration import calibration_windows
from loratory.prune.importance import IMPORTANCES, ImportanceName, measure_importance
from loratory.prune.layers import PROJECTIONS, PrunableLayer, prunable_layers
from loratory.prune.pruning import PruneSettings, count_parameters, default_layers, prune_model
from loratory.prune.selection import KeptParts
from loratory.tree.build import build_tree
from loratory.tree.scorers import make_scorer

ALL = (0, 1)


def sequences(count: int = 3) -> list[TokenSequence]:
    generator = np.random.default_rng(0)
    weights = np.array([0.0] + [1.0] * 11, dtype=np.float32)
    return [TokenSequence(generator.integers(6, 200, 12), weights, 1) for _ in range(count)]


def logits(model: PreTrainedModel) -> torch.Tensor:
    with torch.no_grad():
        return model(torch.arange(3, 30)[None]).logits


def zero(layer: PrunableLayer, kept: KeptParts) -> None:
    """Silence what was not kept, in the whole model."""
    for group in set(range(layer.shape.key_value_heads)) - set(kept.groups):
        rows = layer.head_dim * layer.shape.groups
        layer.linear("o_proj").weight.data[:, group * rows : (group + 1) * rows] = 0
    for channel in set(range(layer.shape.ffn_width)) - set(kept.channels):
        layer.linear("down_proj").weight.data[:, channel] = 0


@pytest.mark.parametrize("importance", IMPORTANCES)
@pytest.mark.parametrize("family", UNEVEN_FAMILIES)
def test_a_pruned_model_computes_as_the_whole_one_with_the_rest_zeroed(
    family: str, importance: ImportanceName, tiny_model_dir: Callable[[str], Path]
) -> None:
    section = ModelConfig(model_name_or_path=str(tiny_model_dir(family)), dtype="float32")
    whole = load_model(section, device="cpu").model
    for module in whole.modules():  # biases that matter
        if isinstance(module, torch.nn.Linear) and module.bias is not None:
            torch.nn.init.normal_(module.bias)
    pruned = copy.deepcopy(whole)
    settings = PruneSettings(ratio=0.4, importance=importance, layers=ALL, channel_multiple=3)
    report = prune_model(pruned, settings, calibration=sequences())
    assert report.shapes_after != report.shapes_before
    for layer, kept in zip(prunable_layers(whole), report.kept, strict=True):
        zero(layer, kept)
    torch.testing.assert_close(logits(pruned), logits(whole), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("scope", ["global", "uniform"])
@pytest.mark.parametrize("ratio", [0.1, 0.35, 0.6])
def test_the_ratio_is_met_within_one_part(scope: Any, ratio: float, tiny_llama: PreTrainedModel) -> None:
    layer = prunable_layers(tiny_llama)[0]
    bundle = 2 * layer.channel_parameters
    report = prune_model(tiny_llama, PruneSettings(ratio=ratio, layers=ALL, scope=scope, channel_multiple=2))
    assert report.removed == report.parameters_before - count_parameters(tiny_llama)
    assert 0 <= ratio * report.prunable - report.removed <= bundle


def test_a_parameter_count_is_met_within_one_part(tiny_llama: PreTrainedModel) -> None:
    before = count_parameters(tiny_llama)
    report = prune_model(tiny_llama, PruneSettings(ratio=None, parameters=before - 5000, layers=ALL))
    assert 0 <= report.parameters_after - (before - 5000) < 8 * prunable_layers(tiny_llama)[0].channel_parameters


def test_layers_outside_the_range_stay_and_minima_hold(tiny_llama: PreTrainedModel) -> None:
    whole = shapes_of(tiny_llama).layers
    report = prune_model(tiny_llama, PruneSettings(ratio=0.4, layers=(1, 1), min_share=0.5, channel_multiple=1))
    assert report.shapes_after[0] == whole[0]
    assert report.shapes_after[1].key_value_heads >= 1
    assert report.shapes_after[1].ffn_width >= 32
    assert report.kept[0].channels == tuple(range(64))


def test_uniform_takes_the_same_from_each_layer(tiny_llama: PreTrainedModel) -> None:
    report = prune_model(tiny_llama, PruneSettings(ratio=0.25, layers=ALL, scope="uniform", channel_multiple=4))
    first, second = report.shapes_after
    assert abs(first.ffn_width - second.ffn_width) <= 4
    assert abs(first.key_value_heads - second.key_value_heads) <= 1


def test_widths_stay_multiples(tiny_llama: PreTrainedModel) -> None:
    prune_model(tiny_llama, PruneSettings(ratio=0.1, layers=ALL, channel_multiple=1))
    report = prune_model(tiny_llama, PruneSettings(ratio=0.3, layers=ALL, channel_multiple=8))
    changed = [a.ffn_width for a, b in zip(report.shapes_after, report.shapes_before, strict=True) if a != b]
    assert changed
    assert all(width % 8 == 0 for width in changed)


def test_the_least_important_goes_first(tiny_llama: PreTrainedModel) -> None:
    layers = prunable_layers(tiny_llama)
    layers[0].linear("down_proj").weight.data[:, 5] = 0
    layers[0].linear("gate_proj").weight.data[5] = 0
    layers[0].linear("up_proj").weight.data[5] = 0
    scores = measure_importance(tiny_llama, layers, "magnitude")
    assert scores[0].channels_F[5] == 0
    assert int(scores[0].channels_F.argmin()) == 5
    report = prune_model(tiny_llama, PruneSettings(ratio=0.01, layers=ALL, channel_multiple=1))
    assert 5 not in report.kept[0].channels


def test_magnitude_is_the_sum_of_squares_of_all_that_goes(tiny_llama: PreTrainedModel) -> None:
    layer = prunable_layers(tiny_llama)[0]
    scores = measure_importance(tiny_llama, [layer], "magnitude")[0]
    whole = [float(layer.linear(name).weight.detach().double().square().sum()) for name in PROJECTIONS]
    assert float(scores.groups_G.sum()) == pytest.approx(sum(whole[:4]))
    assert float(scores.channels_F.sum()) == pytest.approx(sum(whole[4:]))


def test_taylor_is_weight_times_gradient_of_the_padded_twin(tiny_llama: PreTrainedModel) -> None:
    """Against autograd on the padded path: the sum over channels of one layer's feed-forward part."""
    twin = copy.deepcopy(tiny_llama)
    found = measure_importance(tiny_llama, prunable_layers(tiny_llama), "taylor", calibration=sequences())
    wanted = torch.zeros(64, dtype=torch.float64)
    for sequence in sequences():
        twin.zero_grad()
        (make_scorer(twin, path="padded").nll(build_tree([sequence])).sum_nats / 11).backward()
        mlp = twin.model.layers[1].mlp
        products = {
            name: (p.weight * p.weight.grad).abs().double() for name, p in mlp.named_children() if name != "act_fn"
        }
        wanted += products["gate_proj"].sum(1) + products["up_proj"].sum(1) + products["down_proj"].sum(0)
    torch.testing.assert_close(found[1].channels_F, wanted.detach(), rtol=1e-4, atol=1e-9)


def test_taylor_leaves_no_gradient_and_no_trace(tiny_llama: PreTrainedModel) -> None:
    before = [p.requires_grad for p in tiny_llama.parameters()]
    measure_importance(tiny_llama, prunable_layers(tiny_llama), "taylor", calibration=sequences(1))
    assert [p.requires_grad for p in tiny_llama.parameters()] == before
    assert all(p.grad is None for p in tiny_llama.parameters())


def test_random_follows_its_seed(tiny_llama: PreTrainedModel) -> None:
    kept = [
        prune_model(
            copy.deepcopy(tiny_llama), PruneSettings(ratio=0.3, importance="random", layers=ALL, seed=seed)
        ).kept
        for seed in (1, 1, 2)
    ]
    assert kept[0] == kept[1] != kept[2]


def test_pruning_again_prunes_what_is_left(tiny_llama: PreTrainedModel) -> None:
    first = prune_model(tiny_llama, PruneSettings(ratio=0.2, layers=ALL))
    second = prune_model(tiny_llama, PruneSettings(ratio=0.2, layers=ALL))
    assert second.parameters_before == first.parameters_after > second.parameters_after


def test_the_default_spares_first_and_last_layers() -> None:
    assert default_layers(32) == (4, 29)
    assert default_layers(30) == (4, 27)
    assert default_layers(2) == (0, 1)
    assert default_layers(1) == (0, 0)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"ratio": 1.2}, "--ratio: got 1.2"),
        ({"ratio": 0.2, "parameters": 5}, "give one of them"),
        ({"importance": "size"}, "magnitude, taylor, random"),
        ({"layers": (1, 2)}, "layers 0 to 1"),
        ({"ratio": None, "parameters": 10}, "--parameters: got 10"),
        ({"ratio": 0.95, "layers": ALL, "min_share": 0.5}, "can give up"),
        ({"importance": "taylor"}, "--calibration"),
        ({"min_share": 1.0}, "--min-share"),
        ({"channel_multiple": 0}, "--multiple-of"),
    ],
)
def test_what_cannot_be_done_is_refused(changes: dict[str, Any], said: str, tiny_llama: PreTrainedModel) -> None:
    before = shapes_of(tiny_llama)
    with pytest.raises(ConfigError, match=said):
        prune_model(tiny_llama, PruneSettings(**changes))
    assert shapes_of(tiny_llama) == before


def test_other_families_and_adapted_models_are_refused(
    tiny_llama: PreTrainedModel, tiny_model_dir: Callable[[str], Path]
) -> None:
    section = ModelConfig(model_name_or_path=str(tiny_model_dir("gpt2")), dtype="float32")
    with pytest.raises(ModelError, match="gpt2"):
        prune_model(load_model(section, device="cpu").model, PruneSettings())
    adapted = attach_adapter(tiny_llama, AdapterConfig(targets=["v_proj"], rank=2), seed=0).model.get_base_model()
    with pytest.raises(ModelError, match="layer 0: v_proj"):
        prune_model(adapted, PruneSettings())


def test_calibration_windows_are_spread_over_the_text(tmp_path: Path, tiny_tokenizer: PreTrainedTokenizerFast) -> None:
    text = tmp_path / "text.txt"
    text.write_text("".join(f"{number} " for number in range(2000)), encoding="utf-8")
    windows = calibration_windows(str(text), tiny_tokenizer, num_windows=4, window_tokens=32)
    assert [len(window) for window in windows] == [32] * 4
    starts = [int(tiny_tokenizer.decode(window.token_ids[:8]).split()[0]) for window in windows]
    assert starts == sorted(set(starts))
    assert starts[-1] > 1000
    assert len(get_args(ImportanceName)) == len(IMPORTANCES)
