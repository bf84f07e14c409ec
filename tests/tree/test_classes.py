"""Class scores: every path equals the model's own forward on each row alone, in value and gradient."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from test_tree_law import with_exact_norms

from loratory.adapter import attach_adapter
from loratory.config import AdapterConfig, ModelConfig
from loratory.model import load_model
from loratory.model.task import ClassHead
from loratory.tree.build import build_tree
from loratory.tree.classes import reading_tokens, scored_sequence
from loratory.tree.scorers import make_scorer

PROMPT = [7 + i % 40 for i in range(30)]
ROWS = [
    [*PROMPT, 11, 12, 13],
    [*PROMPT, 11, 14],
    [*PROMPT, 50],
    [*PROMPT],
    [60, 61, 62],
    [*PROMPT, 11, 12, 13],
    [*PROMPT, 11, 2, 2],
]
FAMILIES = ("llama", "qwen2", "qwen3", "gemma", "mistral", "phi", "gpt2", "gpt_neox", "bloom")


def adapted(folder: Path, labels: tuple[str, ...] = ()):  # type: ignore[no-untyped-def]
    loaded = load_model(ModelConfig(model_name_or_path=str(folder)), head=ClassHead(labels, seed=3))
    loaded.model.config.pad_token_id = 2
    with_exact_norms(loaded.model)
    attached = attach_adapter(loaded.model, AdapterConfig(rank=4), seed=1, new_modules=loaded.new_modules)
    generator = torch.Generator().manual_seed(5)
    for parameter in attached.model.parameters():
        if parameter.requires_grad:
            parameter.data.normal_(0, 0.2, generator=generator)
    return attached.model.double()


def row_by_row(model: torch.nn.Module) -> torch.Tensor:
    return torch.cat([model(input_ids=torch.tensor([row])).logits for row in ROWS])


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("path", ["padded", "auto"])
def test_scores_and_gradients_are_the_models_own(tiny_model_dir: Callable[[str], Path], family: str, path: str) -> None:
    model = adapted(tiny_model_dir(family), ("a", "b", "c"))
    pull_SL = torch.randn(len(ROWS), 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    expected_SL = row_by_row(model)
    (expected_SL * pull_SL).sum().backward()
    gradients = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    assert any("score" in name for name in gradients)
    model.zero_grad()
    scorer = make_scorer(model, path=path)
    found_SL = scorer.class_scores(build_tree([scored_sequence(row) for row in ROWS]))
    rtol, atol = (1e-5, 1e-6) if family == "bloom" else (1e-9, 1e-11)  # ALiBi is fp32 whatever the model is
    torch.testing.assert_close(found_SL, expected_SL, rtol=rtol, atol=atol)
    (found_SL * pull_SL).sum().backward()
    assert {name for name, p in model.named_parameters() if p.grad is not None} == set(gradients)
    for name, parameter in model.named_parameters():
        if parameter.grad is not None:
            torch.testing.assert_close(parameter.grad, gradients[name], rtol=10 * rtol, atol=10 * atol)
    if path == "auto":
        assert scorer.path == {"gpt2": "tree", "gpt_neox": "tree", "phi": "tree", "bloom": "padded"}.get(
            family, "fused"
        )


def test_one_root_keeps_the_gradient_of_the_head(tiny_llama_dir: Path) -> None:
    model = adapted(tiny_llama_dir)
    trees = [build_tree([scored_sequence(row) for row in ROWS[i : i + 2]]) for i in (0, 2)]
    scorer = make_scorer(model, path="fused")
    for tree in trees:
        scorer.class_scores(tree).sum().backward()
    gradients = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    with scorer.one_root(trees):
        for tree in trees:
            scorer.class_scores(tree).sum().backward()
    for name, gradient in gradients.items():
        torch.testing.assert_close(model.get_parameter(name).grad, gradient, rtol=1e-8, atol=1e-10)


def test_the_last_token_that_is_not_padding_is_read() -> None:
    tree = build_tree([scored_sequence(row) for row in ROWS])
    assert tree.num_tokens < sum(map(len, ROWS))
    reading_S = reading_tokens(tree, pad_token_id=2)
    assert tree.tokens_T[reading_S].tolist() == [13, 14, 50, PROMPT[-1], 62, 13, 11]
    assert tree.tokens_T[reading_tokens(tree, pad_token_id=None)].tolist()[-1] == 2
    assert tree.positions_T[reading_S].tolist() == [32, 31, 30, 29, 2, 32, 30]
    only_padding = build_tree([scored_sequence([2, 2])])
    assert reading_tokens(only_padding, pad_token_id=2).tolist() == [0]


def test_a_full_model_with_classes_takes_the_tree_path(tiny_llama_dir: Path) -> None:
    model = load_model(ModelConfig(model_name_or_path=str(tiny_llama_dir)), head=ClassHead((), seed=3)).model
    model.requires_grad_(True)
    scorer = make_scorer(model)
    assert scorer.path == "tree"
    assert "is trained" in scorer.reason
    with torch.no_grad():
        torch.testing.assert_close(
            scorer.class_scores(build_tree([scored_sequence(row) for row in ROWS[:6]])), row_by_row(model)[:6]
        )
