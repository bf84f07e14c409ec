"""Our tree engine as a language model of lm-eval.

Tokenising, the cut between context and continuation, the empty context and left truncation follow lm-eval's own
Hugging Face backend, so that both give the same numbers; what differs is that a context is computed once for all its
continuations. lm-eval is an optional library, so the class that inherits from it is made inside a function.
"""

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from peft import PeftModel
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from loratory.errors import ConfigError, DataError, MissingExtraError, ModelError
from loratory.evaluation.zero_shot.continuation import GenerationOptions, continue_texts
from loratory.evaluation.zero_shot.likelihood import Continuation, LikelihoodScorer
from loratory.infer.sampling import Sampling
from loratory.tree.scorers import ScorerPath

if TYPE_CHECKING:
    from lm_eval.api.instance import Instance
    from lm_eval.api.model import TemplateLM

_DEFAULT_NEW_TOKENS = 256
_KNOWN_OPTIONS = {"until", "max_gen_toks", "do_sample", "temperature", "top_p", "top_k"}


def require_lm_eval() -> str:
    """The installed version of lm-eval.

    Raises:
        MissingExtraError: It is not installed.
    """
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("lm_eval")
    except PackageNotFoundError as error:
        raise MissingExtraError("zero-shot evaluation", "evaluation") from error


def tree_language_model(
    model: PreTrainedModel | PeftModel,
    tokenizer: PreTrainedTokenizerBase,
    *,
    max_length: int | None = None,
    add_bos_token: bool | None = None,
    max_batch_tokens: int | None = None,
    path: ScorerPath = "auto",
    seed: int = 42,
    on_progress: Callable[[int, int], None] | None = None,
) -> "TemplateLM":
    """Make the backend; pass it as `lm` to lm-eval's `evaluate` or as `model` to its `simple_evaluate`.

    Args:
        model: A causal language model, plain or with a PEFT adapter, unevenly pruned or not.
        tokenizer: Its tokenizer.
        max_length: Longest model input in tokens; None: what the model's configuration says, as in lm-eval.
        add_bos_token: Put special tokens in front of a text; None: as the tokenizer does by itself.
        max_batch_tokens: Tokens of a batch, shared ones counted once; None: from free memory.
        path: How likelihoods are computed.
        seed: Seed of sampling in generating tasks.
        on_progress: Called with finished and all requests of the current call, batch by batch.

    Returns:
        A `lm_eval.api.model.LM` with the attributes `likelihoods` (the `LikelihoodScorer`) and `max_length`.

    Raises:
        MissingExtraError: lm-eval is not installed.
        ConfigError: When `max_length` or `max_batch_tokens` is below 1.
        ModelError: The tokenizer has neither a BOS nor an EOS token, so empty contexts cannot be scored.
    """
    require_lm_eval()
    from lm_eval.api.model import TemplateLM
    from lm_eval.models.utils import (
        handle_stop_sequences,
        normalize_gen_kwargs,
        postprocess_generated_text,
        resolve_max_length,
    )
    from lm_eval.utils import get_rolling_token_windows, make_disjoint_window

    class TreeLanguageModel(TemplateLM):  # type: ignore[misc]
        """lm-eval's requests, answered by the tree engine."""

        def __init__(self) -> None:
            super().__init__()
            self.tokenizer = tokenizer
            self.max_length = max_length or resolve_max_length(model.config, tokenizer)
            self.likelihoods = LikelihoodScorer(
                model, max_length=self.max_length, max_batch_tokens=max_batch_tokens, path=path
            )
            self._prefix_text = tokenizer.decode(self.prefix_token_id)

        @property
        def device(self) -> Any:
            return model.device

        @property
        def eot_token_id(self) -> int:
            return int(tokenizer.eos_token_id)

        @property
        def prefix_token_id(self) -> int:
            bos = tokenizer.bos_token_id
            token = tokenizer.eos_token_id if bos is None else bos
            if token is None:
                raise ModelError(
                    "the tokenizer has neither a BOS nor an EOS token, and lm-eval needs one in front of an empty "
                    "context. Set one in tokenizer_config.json"
                )
            return int(token)

        @property
        def tokenizer_name(self) -> str:
            return str(tokenizer.name_or_path).replace("/", "__")

        def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
            """The tokenizer's own chat template."""
            text = tokenizer.apply_chat_template(
                chat_history,
                tokenize=False,
                add_generation_prompt=add_generation_prompt,
                continue_final_message=not add_generation_prompt,
            )
            assert isinstance(text, str)
            return text

        def tok_encode(self, string: str, add_special_tokens: bool | None = None) -> list[int]:
            """Token ids; a text that starts with the prefix token gets no second one."""
            adds = add_special_tokens
            if adds is None:
                adds = False if string.startswith(self._prefix_text) else add_bos_token
            return list(tokenizer.encode(string) if adds is None else tokenizer.encode(string, add_special_tokens=adds))

        def loglikelihood(self, requests: "Sequence[Instance]", disable_tqdm: bool = True) -> list[tuple[float, bool]]:
            """Log-likelihood of each continuation, and whether greedy decoding gives it."""
            answers: list[tuple[float, bool]] = super().loglikelihood(requests, disable_tqdm=disable_tqdm)
            for request, answer in zip(requests, answers, strict=True):
                self.cache_hook.add_partial("loglikelihood", request.args, answer)
            return answers

        def _loglikelihood_tokens(
            self,
            requests: Sequence[tuple[tuple[str, str] | None, list[int], list[int]]],
            disable_tqdm: bool = True,
        ) -> list[tuple[float, bool]]:
            continuations = [
                Continuation(context_ids, token_ids, name=_request_name(number, texts))
                for number, (texts, context_ids, token_ids) in enumerate(requests, start=1)
            ]
            report = None if on_progress is None else lambda done: on_progress(done, len(continuations))
            scores = self.likelihoods.score(continuations, on_progress=report)
            return [(score.logprob_nats, score.is_greedy) for score in scores]

        def loglikelihood_rolling(self, requests: "Sequence[Instance]", disable_tqdm: bool = True) -> list[float]:
            """Log-likelihood of whole texts in disjoint windows of the model's context."""
            windows: list[tuple[None, list[int], list[int]]] = []
            owners: list[int] = []
            for number, request in enumerate(requests):
                rolling = get_rolling_token_windows(
                    token_list=self.tok_encode(request.args[0]),
                    prefix_token=self.prefix_token_id,
                    max_seq_len=self.max_length,
                    context_len=1,
                )
                own = [(None, *make_disjoint_window(window)) for window in rolling]
                windows += own
                owners += [number] * len(own)
            totals: list[list[float]] = [[] for _ in requests]
            for owner, (logprob, _) in zip(owners, self._loglikelihood_tokens(windows), strict=True):
                totals[owner].append(logprob)
            answers = [math.fsum(parts) for parts in totals]
            for request, answer in zip(requests, answers, strict=True):
                self.cache_hook.add_partial("loglikelihood_rolling", request.args, answer)
            return answers

        def generate_until(self, requests: "Sequence[Instance]", disable_tqdm: bool = True) -> list[str]:
            """Continue each context until one of its stop texts."""
            eos = tokenizer.decode(self.eot_token_id)
            groups: dict[str, list[int]] = {}
            for number, request in enumerate(requests):
                groups.setdefault(repr(sorted(request.args[1].items())), []).append(number)
            answers = [""] * len(requests)
            for numbers in groups.values():
                raw = normalize_gen_kwargs(requests[numbers[0]].args[1], _DEFAULT_NEW_TOKENS)
                raw["until"] = handle_stop_sequences(raw["until"], eos=eos)
                options = _generation_options(raw, seed)
                room = self.max_length - options.max_new_tokens
                if room < 1:
                    raise DataError(
                        f"max_gen_toks: {options.max_new_tokens} new tokens leave no room for a prompt in the model's "
                        f"context of {self.max_length}; lower it below that"
                    )
                prompts = [self.tok_encode(requests[number].args[0])[-room:] for number in numbers]
                texts = continue_texts(model, tokenizer, prompts, options)
                for number, text in zip(numbers, texts, strict=True):
                    answers[number] = postprocess_generated_text(text, list(options.stop_texts), None)
                    self.cache_hook.add_partial("generate_until", requests[number].args, answers[number])
            return answers

    return TreeLanguageModel()


def _request_name(number: int, texts: tuple[str, str] | None) -> str:
    return f"request {number}" if texts is None else f"request {number} (continuation {texts[1][:40]!r})"


def _generation_options(raw: dict[str, Any], seed: int) -> GenerationOptions:
    unknown = sorted(set(raw) - _KNOWN_OPTIONS)
    if unknown:
        raise ConfigError(
            [f"generation_kwargs.{name}: not supported; use {sorted(_KNOWN_OPTIONS)}" for name in unknown]
        )
    sampling = None
    if raw.get("do_sample") and raw.get("temperature", 1.0) > 0:
        sampling = Sampling(
            temperature=float(raw.get("temperature", 1.0)),
            top_p=float(raw.get("top_p", 1.0)),
            top_k=int(raw.get("top_k", 0)),
            seed=seed,
        )
    return GenerationOptions(tuple(raw["until"]), int(raw["max_gen_toks"]), sampling)
