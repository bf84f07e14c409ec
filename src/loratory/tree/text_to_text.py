"""Scorer of encoder-decoders: a sequence's prompt goes into the encoder, its answer is what the decoder predicts.

An encoder reads both ways, so nothing of two prompts can be shared: rows are padded. Labels are the tree's own: the
answer begins at a sequence's first label, which is the first target after the decoder's start token; what stands
between two labels of an answer is fed but not counted.
"""

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext

import torch
from peft import PeftModel
from transformers import PreTrainedModel

from loratory.errors import ModelError
from loratory.tree.eligibility import base_of
from loratory.tree.head import score_logits
from loratory.tree.scorer import LabelScores, TreeOutputs, WeightedNll
from loratory.tree.tree import TokenTree

_IGNORED = -100


class TextToTextScorer:
    """Scores a tree by an encoder-decoder's own forward.

    Args:
        model: An encoder-decoder, with or without an adapter.

    Attributes:
        path: "padded".
        reason: One line.
    """

    path = "padded"
    reason = "an encoder reads each prompt both ways, so prompts share nothing"

    def __init__(self, model: PreTrainedModel | PeftModel) -> None:
        self.model = model

    def nll(self, tree: TokenTree) -> WeightedNll:
        """Weighted sum of negative log-likelihoods, counted use by use."""
        logprob_M, correct_M = self._use_logprobs(tree)
        return WeightedNll(
            sum_nats=-(logprob_M * tree.weight_M.to(logprob_M)).sum(),
            num_correct=float(correct_M.sum()),
            num_labels=float(len(correct_M)),
        )

    def logprobs(self, tree: TokenTree) -> torch.Tensor:
        """Log-probability of each label, [N]."""
        return self.label_scores(tree).logprobs_N

    def label_scores(self, tree: TokenTree) -> LabelScores:
        """Log-probability of each label and whether greedy decoding would take it, where it is used first."""
        logprob_M, correct_M = self._use_logprobs(tree)
        first_N = torch.full_like(tree.targets_N, len(tree.label_M))
        first_N = first_N.scatter_reduce(0, tree.label_M, torch.arange(len(tree.label_M)), reduce="amin")
        first_N = first_N.to(logprob_M.device)
        return LabelScores(logprob_M[first_N], correct_M[first_N])

    def outputs(self, tree: TokenTree, *, hidden_P: torch.Tensor, needs_entropy: bool = False) -> TreeOutputs:
        """Not for encoder-decoders: objectives that need it sample from a causal model.

        Raises:
            ModelError: Always.
        """
        raise ModelError(
            "this objective needs a causal language model; an encoder-decoder learns by objective.name=sft"
        )

    def class_scores(self, tree: TokenTree) -> torch.Tensor:
        """Not for models that write text.

        Raises:
            ModelError: Always.
        """
        raise ModelError("this model writes text and has no classification head")

    def one_root(self, trees: Sequence[TokenTree]) -> AbstractContextManager[None]:
        """Nothing is shared."""
        return nullcontext()

    def _use_logprobs(self, tree: TokenTree) -> tuple[torch.Tensor, torch.Tensor]:
        """Log-probability of each use of a label and whether it was the likeliest token, [M] each."""
        device = next(self.model.parameters()).device
        if len(tree.label_M) == 0:
            return torch.zeros(0, device=device), torch.zeros(0, dtype=torch.bool, device=device)
        prompts, answers, row_M, column_M = _unfold(tree)
        pad = torch.nn.utils.rnn.pad_sequence
        config = base_of(self.model).config
        input_ids_BT = pad(prompts, batch_first=True, padding_value=int(config.pad_token_id or 0))
        mask_BT = pad([torch.ones_like(prompt) for prompt in prompts], batch_first=True)
        labels_BA = pad(answers, batch_first=True, padding_value=_IGNORED)
        logits_BAV: torch.Tensor = self.model(
            input_ids=input_ids_BT.to(device), attention_mask=mask_BT.to(device), labels=labels_BA.to(device)
        ).logits
        row_M, column_M = row_M.to(device), column_M.to(device)
        target_M = labels_BA.to(device)[row_M, column_M]
        place_M = torch.arange(len(row_M), device=device)
        return score_logits(logits_BAV[row_M, column_M], place_M, target_M)


def _unfold(tree: TokenTree) -> tuple[list[torch.Tensor], list[torch.Tensor], torch.Tensor, torch.Tensor]:
    """Prompts and answers of the sequences that have labels, and row and column of each use of a label."""
    predictor_M, target_M = tree.predictors_N[tree.label_M], tree.targets_N[tree.label_M]
    position_M = tree.positions_T[predictor_M]
    row_M, column_M = torch.empty_like(position_M), torch.empty_like(position_M)
    prompts: list[torch.Tensor] = []
    answers: list[torch.Tensor] = []
    for sequence in torch.unique(tree.sequence_M).tolist():
        uses = torch.nonzero(tree.sequence_M == sequence)[:, 0]
        last = uses[position_M[uses].argmax()]
        path = _path(tree, int(predictor_M[last]))
        first = int(position_M[uses].min())
        row_M[uses] = len(prompts)
        column_M[uses] = position_M[uses] - first
        prompts.append(path[: first + 1])
        answers.append(torch.cat([path[first + 1 :], target_M[last][None]]))
    return prompts, answers, row_M, column_M


def _path(tree: TokenTree, token: int) -> torch.Tensor:
    """Tokens from the root to this one."""
    index = next(i for i, segment in enumerate(tree.segments) if segment.start <= token < segment.stop)
    pieces = [tree.tokens_T[tree.segments[index].start : token + 1]]
    while (index := tree.segments[index].parent) >= 0:
        pieces.insert(0, tree.tokens_T[tree.segments[index].start : tree.segments[index].stop])
    return torch.cat(pieces)
