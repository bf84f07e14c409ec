"""Rewards by a trained reward model, on the very tokens that the policy read and wrote."""

from collections.abc import Sequence
from pathlib import Path

from loratory.errors import ModelError
from loratory.infer.generate import context_length
from loratory.infer.reward_model import RewardModel
from loratory.infer.session import check_contract
from loratory.objective.judge import AnsweredPrompt, Unjudged, Verdict, checked
from loratory.objective.sampled import Policy

_CONTRACT = "template.json"


class ModelJudge:
    """Scores prompt and answer together.

    The reward model sees tokens, so it must have the policy's tokenizer, and, where its run says so, the policy's
    template; its base may be another.
    """

    needs_label = False

    def __init__(self, model: RewardModel) -> None:
        self._model = model

    def check(self, policy: Policy) -> None:
        """Compare tokenizer and template with the policy's.

        Raises:
            ModelError: Another tokenizer.
            IntegrityError: The reward model was trained under another template; names what differs.
        """
        theirs, ours = self._model.tokenizer.get_vocab(), policy.tokenizer.get_vocab()
        if theirs != ours:
            differing = len(theirs.items() ^ ours.items())
            raise ModelError(
                f"objective.rollout.reward_model: '{self._model.source}' has another tokenizer than the policy "
                f"({len(theirs)} tokens against {len(ours)}, {differing} entries differ), so it would read other text "
                "than the policy wrote. Train a reward model with the policy's tokenizer."
            )
        contract: Path = self._model.source / _CONTRACT
        if contract.is_file():
            check_contract(contract, policy.template.contract())

    def __call__(self, answered: Sequence[AnsweredPrompt]) -> list[Verdict]:
        """The score of each; a score that is not finite, or a text longer than the model's context, has a reason."""
        limit = context_length(self._model.model)
        fits = [limit is None or len(each.token_ids) <= limit for each in answered]
        scores = iter(self._model.scores([each.token_ids for each, is_in in zip(answered, fits, strict=True) if is_in]))
        return [
            checked(next(scores)) if is_in else Unjudged(f"{len(each.token_ids)} tokens pass its context of {limit}")
            for each, is_in in zip(answered, fits, strict=True)
        ]
