"""The padded twin: the plain computation that every faster scorer must equal.

It unfolds the tree into right-padded rows and asks the model the ordinary way. It shares nothing with the tree path
but the tree itself, and it serves every model that transformers can run, so it is also what is used when a model has
something the tree path cannot do exactly.
"""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass

import torch
from peft import PeftModel
from transformers import PreTrainedModel

from loratory.tree.eligibility import base_of
from loratory.tree.head import logprobs_and_entropies
from loratory.tree.scorer import LabelScores, TreeOutputs, WeightedNll
from loratory.tree.tree import TokenTree


@dataclass(frozen=True, slots=True, eq=False)
class _Rows:
    """A tree unfolded: one row for each sequence that has a label, and the place of each use in it."""

    input_ids_BT: torch.Tensor
    attention_mask_BT: torch.Tensor
    row_M: torch.Tensor
    column_M: torch.Tensor


class PaddedScorer:
    """Scores a tree by the model's own forward on right-padded rows.

    Args:
        model: A causal language model, with or without an adapter.
        reason: Why this path was taken, for the user.

    Attributes:
        path: "padded".
        reason: One line.
    """

    path = "padded"

    def __init__(self, model: PreTrainedModel | PeftModel, *, reason: str = "requested") -> None:
        self.model = model
        self.reason = reason

    def nll(self, tree: TokenTree) -> WeightedNll:
        """Weighted sum of negative log-likelihoods, counted use by use."""
        logprob_M, correct_M = self._use_logprobs(tree)
        weight_M = tree.weight_M.to(logprob_M)
        return WeightedNll(
            sum_nats=-(logprob_M * weight_M).sum(),
            num_correct=float(correct_M.sum()),
            num_labels=float(len(correct_M)),
        )

    def one_root(self, trees: Sequence[TokenTree]) -> AbstractContextManager[None]:
        """Every tree computes its own beginning."""
        return nullcontext()

    def logprobs(self, tree: TokenTree) -> torch.Tensor:
        """Log-probability of each label, [N], taken where it is used first."""
        return self.label_scores(tree).logprobs_N

    def label_scores(self, tree: TokenTree) -> LabelScores:
        """Log-probability of each label and whether greedy decoding would take it, where the label is used first."""
        logprob_M, correct_M = self._use_logprobs(tree)
        num_uses = len(tree.label_M)
        first_N = torch.full_like(tree.targets_N, num_uses)
        first_N = first_N.scatter_reduce(0, tree.label_M, torch.arange(num_uses), reduce="amin")
        first_N = first_N.to(logprob_M.device)
        return LabelScores(logprob_M[first_N], correct_M[first_N])

    def outputs(self, tree: TokenTree, *, hidden_P: torch.Tensor, needs_entropy: bool = False) -> TreeOutputs:
        """Log-probabilities and hidden states from one forward pass."""
        device = next(self.model.parameters()).device
        num_labels = len(tree.predictors_N)
        rows = _cover(tree, torch.cat([tree.predictors_N, hidden_P.cpu()]))
        row_X, column_X = rows.row_M.to(device), rows.column_M.to(device)
        with _last_hidden_state(base_of(self.model)) as kept:
            logits_BTV: torch.Tensor = self.model(
                input_ids=rows.input_ids_BT.to(device),
                attention_mask=rows.attention_mask_BT.to(device),
                use_cache=False,
            ).logits
        num_virtual = logits_BTV.shape[1] - rows.input_ids_BT.shape[1]  # prompt tuning puts its tokens in front
        column_X = column_X + num_virtual
        logits_NV = logits_BTV[row_X[:num_labels], column_X[:num_labels]]
        places_N = torch.arange(num_labels, device=device)
        logprob_N, entropy_N = logprobs_and_entropies(logits_NV, places_N, tree.targets_N.to(device))
        hidden_PD = kept[0][row_X[num_labels:], column_X[num_labels:]]
        return TreeOutputs(logprob_N, entropy_N if needs_entropy else None, hidden_PD)

    def class_scores(self, tree: TokenTree) -> torch.Tensor:
        """Scores of every sequence, [num_sequences, labels], by the model's own forward."""
        device = next(self.model.parameters()).device
        pad_token_id = int(self.model.config.get_text_config().pad_token_id)
        rows = _unfold(tree)
        mask_BT = rows.attention_mask_BT
        input_ids_BT = rows.input_ids_BT.masked_fill(mask_BT == 0, pad_token_id)  # the model looks for the last other
        scores_SL: torch.Tensor = self.model(
            input_ids=input_ids_BT.to(device), attention_mask=mask_BT.to(device)
        ).logits
        return scores_SL.to(torch.promote_types(scores_SL.dtype, torch.float32))

    def _use_logprobs(self, tree: TokenTree) -> tuple[torch.Tensor, torch.Tensor]:
        """Log-probability of each use of a label and whether it was the likeliest token, [M] each."""
        device = next(self.model.parameters()).device
        if len(tree.label_M) == 0:
            dtype = torch.promote_types(self.model.dtype, torch.float32)
            return torch.zeros(0, dtype=dtype, device=device), torch.zeros(0, dtype=torch.bool, device=device)
        rows = _unfold(tree)
        row_M, column_M = rows.row_M.to(device), rows.column_M.to(device)
        logits_MV = self._logits(rows, row_M, column_M)
        target_M = tree.targets_N[tree.label_M].to(device)
        own_M = logits_MV.gather(1, target_M[:, None])[:, 0]
        precision = torch.promote_types(logits_MV.dtype, torch.float32)
        logprob_M = own_M.to(precision) - logits_MV.to(precision).logsumexp(dim=-1)
        return logprob_M, own_M == logits_MV.amax(dim=-1)

    def _logits(self, rows: _Rows, row_M: torch.Tensor, column_M: torch.Tensor) -> torch.Tensor:
        """Logits that predict each use, [M, V]."""
        inputs = {
            "input_ids": rows.input_ids_BT.to(row_M.device),
            "attention_mask": rows.attention_mask_BT.to(row_M.device),
        }
        if isinstance(self.model, PeftModel) and self.model.active_peft_config.is_prompt_learning:
            logits_BTV: torch.Tensor = self.model(**inputs, use_cache=False).logits
            num_virtual = logits_BTV.shape[1] - rows.input_ids_BT.shape[1]  # prompt tuning puts its tokens in front
            return logits_BTV[row_M, column_M + num_virtual]
        kept, place_M = torch.unique(column_M, return_inverse=True)
        logits_BKV: torch.Tensor = self.model(**inputs, use_cache=False, logits_to_keep=kept).logits
        return logits_BKV[row_M, place_M]


@contextmanager
def _last_hidden_state(base: PreTrainedModel) -> Iterator[list[torch.Tensor]]:
    """Collect what the body hands to the head; `output_hidden_states` would leave hooks on every layer for good."""
    kept: list[torch.Tensor] = []
    handle = base.base_model.register_forward_hook(lambda module, inputs, output: kept.append(output[0]))
    try:
        yield kept
    finally:
        handle.remove()


def _cover(tree: TokenTree, tokens_X: torch.Tensor) -> _Rows:
    """As few rows as hold all these tokens (flat indices), and the place of each in them."""
    segment_T = _segments_of_tokens(tree)
    last_of: dict[int, int] = {}
    for token in tokens_X.tolist():
        index = int(segment_T[token])
        last_of[index] = max(token, last_of.get(index, -1))
    inner = {ancestor for index in last_of for ancestor in _ancestors(tree, index)}
    paths: list[torch.Tensor] = []
    row_of: dict[int, int] = {}
    for index, last in last_of.items():
        if index in inner:
            continue
        for segment in (index, *_ancestors(tree, index)):
            row_of.setdefault(segment, len(paths))
        paths.append(_path(tree, index, last))
    row_X = torch.tensor([row_of[int(segment_T[token])] for token in tokens_X.tolist()], dtype=torch.int64)
    return _padded(paths, row_X, tree.positions_T[tokens_X])


def _ancestors(tree: TokenTree, index: int) -> Iterator[int]:
    while (index := tree.segments[index].parent) >= 0:
        yield index


def _path(tree: TokenTree, index: int, last: int) -> torch.Tensor:
    """Tokens from the root to token `last` of segment `index`."""
    pieces = [tree.tokens_T[tree.segments[index].start : last + 1]]
    for ancestor in _ancestors(tree, index):
        pieces.insert(0, tree.tokens_T[tree.segments[ancestor].start : tree.segments[ancestor].stop])
    return torch.cat(pieces)


def _segments_of_tokens(tree: TokenTree) -> torch.Tensor:
    segment_T = torch.empty(tree.num_tokens, dtype=torch.int64)
    for index, segment in enumerate(tree.segments):
        segment_T[segment.start : segment.stop] = index
    return segment_T


def _padded(paths: Sequence[torch.Tensor], row_M: torch.Tensor, column_M: torch.Tensor) -> _Rows:
    input_ids_BT = torch.nn.utils.rnn.pad_sequence(list(paths), batch_first=True)  # masked below, so any id will do
    lengths_B = torch.tensor([len(path) for path in paths])
    attention_mask_BT = (torch.arange(input_ids_BT.shape[1]) < lengths_B[:, None]).to(torch.int64)
    return _Rows(input_ids_BT, attention_mask_BT, row_M, column_M)


def _unfold(tree: TokenTree) -> _Rows:
    """Walk from each sequence's last predictor up to its root."""
    segment_T = _segments_of_tokens(tree)
    predictor_M = tree.predictors_N[tree.label_M]
    column_M = tree.positions_T[predictor_M]
    row_M = torch.empty_like(column_M)
    paths: list[torch.Tensor] = []
    for sequence in torch.unique(tree.sequence_M).tolist():
        uses = torch.nonzero(tree.sequence_M == sequence)[:, 0]
        row_M[uses] = len(paths)
        last = int(predictor_M[uses[column_M[uses].argmax()]])
        paths.append(_path(tree, int(segment_T[last]), last))
    return _padded(paths, row_M, column_M)
