"""The tree path for any family of transformers that uses its attention registry: each token of the tree once.

The model runs as it is on one row that holds the whole tree; only attention knows about paths. The head sees only
predictors, each once. They are gathered behind the final norm, because transformers offers no public place before it;
the norm works row by row, so this costs little and changes nothing.
"""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext

import torch
from peft import PeftModel
from transformers import PreTrainedModel

from loratory.tree.classes import reading_tokens, score_layer
from loratory.tree.eligibility import base_of, eligibility
from loratory.tree.head import FrozenHead, RecomputedHead, score_logits, score_outputs
from loratory.tree.padded import PaddedScorer
from loratory.tree.registry import forward_arguments, set_tree_attention
from loratory.tree.scorer import LabelScores, TreeOutputs, WeightedNll
from loratory.tree.tree import TokenTree

Head = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], tuple[torch.Tensor, torch.Tensor]]


class TreeScorer:
    """Scores a tree in one row of unique tokens.

    Args:
        model: A model for which `eligibility` gives no refusal.
        reason: One line for the user.

    Attributes:
        path: "tree".
        reason: One line.
    """

    path = "tree"

    def __init__(self, model: PreTrainedModel | PeftModel, *, reason: str) -> None:
        found = eligibility(model)
        assert found.refusal is None, found.refusal
        self.reason = reason
        self._base = base_of(model)
        self._window = found.window
        self._has_linear_head = found.has_linear_head
        self._twin = PaddedScorer(model, reason="paths longer than the attention window")
        self._head: Head | None = None
        set_tree_attention(self._base)

    def nll(self, tree: TokenTree) -> WeightedNll:
        """Weighted sum of negative log-likelihoods over the tree's labels."""
        if self._is_too_long(tree):
            return self._twin.nll(tree)
        logprob_N, correct_N = self._score(tree)
        weights_N = tree.weights_N.to(logprob_N)
        return WeightedNll(
            sum_nats=-(logprob_N * weights_N).sum(),
            num_correct=float(correct_N.cpu()[tree.label_M].sum()),
            num_labels=float(len(tree.label_M)),
        )

    def one_root(self, trees: Sequence[TokenTree]) -> AbstractContextManager[None]:
        """Every tree computes its own beginning."""
        return nullcontext()

    def logprobs(self, tree: TokenTree) -> torch.Tensor:
        """Log-probability of each label, [N]."""
        return self._twin.logprobs(tree) if self._is_too_long(tree) else self._score(tree)[0]

    def label_scores(self, tree: TokenTree) -> LabelScores:
        """Log-probability of each label and whether greedy decoding would take it."""
        if self._is_too_long(tree):
            return self._twin.label_scores(tree)
        # By torch's log_softmax, whose rounding over a large vocabulary others' numbers have too.
        head = RecomputedHead(self._base.get_output_embeddings(), self._base.config.vocab_size)
        return LabelScores(*self._score(tree, head))

    def outputs(self, tree: TokenTree, *, hidden_P: torch.Tensor, needs_entropy: bool = False) -> TreeOutputs:
        """Log-probabilities and hidden states from one forward pass."""
        if self._is_too_long(tree) or not self._has_linear_head:
            return self._twin.outputs(tree, hidden_P=hidden_P, needs_entropy=needs_entropy)
        device = self._base.device
        predictors_P, row_N = torch.unique(tree.predictors_N, return_inverse=True)
        predictors_P, row_N, targets_N = (x.to(device) for x in (predictors_P, row_N, tree.targets_N))
        arguments = forward_arguments(tree, device, self._base.dtype)
        hidden_TD: torch.Tensor = self._base.base_model(**arguments).last_hidden_state[0]
        hidden_PD = hidden_TD.index_select(0, predictors_P)
        asked_PD = hidden_TD.index_select(0, hidden_P.to(device))
        head, num_tokens = self._base.get_output_embeddings(), self._base.config.vocab_size
        logprob_N, entropy_N = score_outputs(head, num_tokens, hidden_PD, row_N, targets_N, needs_entropy=needs_entropy)
        return TreeOutputs(logprob_N, entropy_N, asked_PD)

    def class_scores(self, tree: TokenTree) -> torch.Tensor:
        """Scores of every sequence, [num_sequences, labels]."""
        score = score_layer(self._base)
        if self._is_too_long(tree) or score is None:
            return self._twin.class_scores(tree)
        device = self._base.device
        reading_S = reading_tokens(tree, self._base.config.get_text_config().pad_token_id)
        arguments = forward_arguments(tree, device, self._base.dtype)
        hidden_TD: torch.Tensor = self._base.base_model(**arguments).last_hidden_state[0]
        scores_SL: torch.Tensor = score(hidden_TD.index_select(0, reading_S.to(device)))
        return scores_SL.to(torch.promote_types(scores_SL.dtype, torch.float32))

    def _is_too_long(self, tree: TokenTree) -> bool:
        return self._window is not None and tree.num_tokens > 0 and int(tree.positions_T.max()) >= self._window

    def _score(self, tree: TokenTree, head: Head | None = None) -> tuple[torch.Tensor, torch.Tensor]:
        device = self._base.device
        if len(tree.targets_N) == 0:
            precision = torch.promote_types(self._base.dtype, torch.float32)
            return torch.zeros(0, dtype=precision, device=device), torch.zeros(0, dtype=torch.bool, device=device)
        predictors_P, row_N = torch.unique(tree.predictors_N, return_inverse=True)
        predictors_P, row_N, targets_N = (x.to(device) for x in (predictors_P, row_N, tree.targets_N))
        arguments = forward_arguments(tree, device, self._base.dtype)
        if not self._has_linear_head:
            logits_PV: torch.Tensor = self._base(**arguments, logits_to_keep=predictors_P).logits[0]
            return score_logits(logits_PV, row_N, targets_N)
        hidden_TD: torch.Tensor = self._base.base_model(**arguments).last_hidden_state[0]
        head = head or self._linear_head(hidden_TD.device)
        return head(hidden_TD.index_select(0, predictors_P), row_N, targets_N)

    def _linear_head(self, device: torch.device) -> Head:
        """The head as it is now: what is trained may change between calls, and so may autocast."""
        module = self._base.get_output_embeddings()
        is_frozen = type(module) is torch.nn.Linear and not any(p.requires_grad for p in module.parameters())
        if not is_frozen or torch.is_autocast_enabled(device.type):
            return RecomputedHead(module, self._base.config.vocab_size)
        if not isinstance(self._head, FrozenHead) or self._head.weight_VD.data_ptr() != module.weight.data_ptr():
            self._head = FrozenHead(module.weight, module.bias)
        return self._head
