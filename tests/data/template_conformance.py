"""What every template keeps: the law, stop tokens, one BOS, text that stays text. Test classes inherit it."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from loratory.data.field_template import BUILT_IN
from loratory.data.records import Origin, Record, Turn
from loratory.data.templates import BoundTemplate, bind_template
from loratory.errors import TemplateError

ORIGIN = Origin("rows.json", 7)

LLAMA2 = (
    "{% if messages[0]['role'] == 'system' %}{% set loop_messages = messages[1:] %}"
    "{% set system = '<<SYS>>\n' + messages[0]['content'] + '\n<</SYS>>\n\n' %}"
    "{% else %}{% set loop_messages = messages %}{% set system = '' %}{% endif %}"
    "{% for message in loop_messages %}"
    "{% set content = system + message['content'] if loop.index0 == 0 else message['content'] %}"
    "{% if message['role'] == 'user' %}{{ bos_token + '[INST] ' + content.strip() + ' [/INST]' }}"
    "{% elif message['role'] == 'assistant' %}{{ ' ' + content.strip() + ' ' + eos_token }}{% endif %}{% endfor %}"
)


def metaspace_tokenizer() -> PreTrainedTokenizerFast:
    """As Llama 2's: spaces as marks, a leading space of its own, byte fallback, BOS put by the tokenizer."""
    learner = Tokenizer(models.BPE())
    learner.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="never")
    corpus = [" the answer is yes [INST] no [/INST] cancel_68 ### Response:"] * 8
    learner.train_from_iterator(corpus, trainers.BpeTrainer(vocab_size=120, show_progress=False))
    learned = json.loads(learner.to_str())["model"]
    pieces = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), *learned["vocab"]]
    tokenizer = Tokenizer(
        models.BPE(
            vocab={piece: index for index, piece in enumerate(pieces)},
            merges=[tuple(merge) for merge in learned["merges"]],
            unk_token="<unk>",
            byte_fallback=True,
            fuse_unk=True,
        )
    )
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        clean_up_tokenization_spaces=False,
    )
    fast.chat_template = LLAMA2
    return fast


def record(*contents: str, system: str | None = None, fields: dict[str, str] | None = None) -> Record:
    """A conversation of user and assistant turns in alternation."""
    turns = [Turn("assistant" if i % 2 else "user", text) for i, text in enumerate(contents)]
    if system is not None:
        turns.insert(0, Turn("system", system))
    return Record(tuple(turns), ORIGIN, fields or {})


def answer_ids(template: BoundTemplate, row: Record) -> list[int]:
    sequence = template.sequence(row)
    return sequence.token_ids[sequence.prompt_length :].tolist()


CONTROL = ["<|im_start|>", "<|im_end|>", "<s>", "</s>", "<pad>", "<think>", "</think>"]
TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\ufdd0\ufdd1"), min_size=1, max_size=12)
FORGED = st.lists(st.sampled_from([*CONTROL, "<", "|im_end|>", "a", " ", "\n", "套"]), min_size=1, max_size=5)
CONTENT = st.one_of(TEXT, FORGED.map("".join)).filter(lambda text: text.strip() != "")
# The properties are inherited on purpose (differing_executors) and never change their fixture.
PROPERTY = settings(
    max_examples=60,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.differing_executors],
)


class TemplateConformance:
    """What every template must keep; subclasses give a bound template."""

    strips = False  # the template takes white space off the ends of texts
    multi_turn = True
    answer_prefix = ""  # what the template itself writes between generation prompt and answer
    answer_suffix = ""  # and between answer and stop token

    @pytest.fixture
    def tokenizer(self, tiny_tokenizer: PreTrainedTokenizerFast) -> PreTrainedTokenizerFast:
        return tiny_tokenizer

    def bind(self, tokenizer: PreTrainedTokenizerFast, **options: Any) -> BoundTemplate:
        raise NotImplementedError

    @PROPERTY
    @given(prompt=CONTENT, answer=CONTENT)
    def test_law(self, tokenizer: PreTrainedTokenizerFast, prompt: str, answer: str) -> None:
        """Prompt ids open the sequence, weights begin where they end, the stop token ends it."""
        template = self.bind(tokenizer)
        row = record(prompt, answer)
        try:
            sequence = template.sequence(row)
        except TemplateError:
            assert self.strips or "think" in answer + prompt  # a refusal is right only where the template rewrites text
            return
        prompt_ids = template.generation_prompt(row)
        assert sequence.token_ids[: sequence.prompt_length].tolist() == prompt_ids
        assert template.generation_prompt(record(prompt)) == prompt_ids
        assert sequence.weights[: sequence.prompt_length].tolist() == [0.0] * len(prompt_ids)
        assert sequence.weights[sequence.prompt_length :].tolist() == [1.0] * (len(sequence) - len(prompt_ids))
        assert sequence.token_ids[-1] == template.stop_token_ids[0]

    @PROPERTY
    @given(prompt=CONTENT, answer=CONTENT)
    def test_text_never_becomes_control_tokens(
        self, tokenizer: PreTrainedTokenizerFast, prompt: str, answer: str
    ) -> None:
        """A row has exactly the control tokens that the same row of harmless text has."""
        template = self.bind(tokenizer)
        special = set(tokenizer.all_special_ids) | {
            i for i, token in tokenizer.added_tokens_decoder.items() if token.special
        }
        try:
            sequence = template.sequence(record(prompt, answer))
        except TemplateError:
            return
        harmless = template.sequence(record("a", "b"))
        assert [i for i in sequence.token_ids.tolist() if i in special] == [
            i for i in harmless.token_ids.tolist() if i in special
        ]

    @PROPERTY
    @given(answer=CONTENT)
    def test_round_trip(self, tokenizer: PreTrainedTokenizerFast, answer: str) -> None:
        template = self.bind(tokenizer)
        try:
            sequence = template.sequence(record("q", answer))
        except TemplateError:
            return
        whole, prompt = (tokenizer.decode(sequence.token_ids[:end]) for end in (-1, sequence.prompt_length))
        assert whole.startswith(prompt)
        decoded = whole[len(prompt) :]
        if self.strips:
            assert decoded.strip() == answer.strip()
        elif "</think>" not in answer:
            assert decoded == self.answer_prefix + answer + self.answer_suffix

    def test_stop_token_only_when_asked(self, tokenizer: PreTrainedTokenizerFast) -> None:
        row = record("q", "yes")
        with_stop, without = self.bind(tokenizer), self.bind(tokenizer, add_eos_token=False)
        assert with_stop.sequence(row).token_ids[-1] in with_stop.stop_token_ids
        ids = answer_ids(without, row)
        assert tokenizer.decode(ids).endswith("yes")
        assert not set(ids) & set(without.stop_token_ids)
        assert with_stop.stop_token_ids == without.stop_token_ids
        assert tokenizer.eos_token_id in with_stop.stop_token_ids

    def test_single_bos(self, tokenizer: PreTrainedTokenizerFast) -> None:
        template = self.bind(tokenizer)
        for text in ("hello", "<s> hello", "<s><s>"):
            ids = template.generation_prompt(record(text))
            assert ids.count(tokenizer.bos_token_id) <= 1
            assert tokenizer.bos_token_id not in ids[1:]

    def test_train_on_inputs(self, tokenizer: PreTrainedTokenizerFast) -> None:
        row = record("q", "yes")
        plain, whole = self.bind(tokenizer), self.bind(tokenizer, train_on_inputs=True)
        assert whole.sequence(row).token_ids.tolist() == plain.sequence(row).token_ids.tolist()
        assert whole.sequence(row).weights.tolist() == [0.0] + [1.0] * (len(plain.sequence(row)) - 1)

    def test_batches_equal_single_rows(self, tokenizer: PreTrainedTokenizerFast) -> None:
        template = self.bind(tokenizer)
        rows = [record("q", "yes"), record("q </s> r", "no"), record("q", "a longer answer")]
        for row, sequence in zip(rows, template.sequences(rows), strict=True):
            alone = template.sequence(row)
            assert sequence.token_ids.tolist() == alone.token_ids.tolist()
            assert sequence.weights.tolist() == alone.weights.tolist()
            assert sequence.prompt_length == alone.prompt_length

    def test_multi_turn(self, tokenizer: PreTrainedTokenizerFast) -> None:
        """Every answer is trained with its stop token, and the conversation grows by concatenation."""
        template = self.bind(tokenizer)
        row = record("one", "first", "two", "second")
        if not self.multi_turn:
            with pytest.raises(TemplateError, match=r"rows\.json:7.*'chat'"):
                template.sequence(row)
            return
        sequence = template.sequence(row)
        ids, weights = sequence.token_ids.tolist(), sequence.weights.tolist()
        trained = tokenizer.decode([i for i, w in zip(ids, weights, strict=True) if w])
        assert trained.index("first") < trained.index("second")
        assert "one" not in trained
        assert "two" not in trained
        assert ids[: sequence.prompt_length] == template.generation_prompt(row)
        opening = template.generation_prompt(record("one"))
        assert ids[: len(opening)] == opening
        assert weights[: len(opening)] == [0.0] * len(opening)
        assert weights[len(opening)] == 1.0

    def test_errors_name_the_row(self, tokenizer: PreTrainedTokenizerFast) -> None:
        with pytest.raises(TemplateError, match=r"rows\.json:7: .*no answer"):
            self.bind(tokenizer).sequence(record("q"))
        with pytest.raises(TemplateError, match=r"rows\.json:7: .*U\+FDD0"):
            self.bind(tokenizer).sequence(record("q\ufdd0", "a"))

    def test_contract(self, tokenizer: PreTrainedTokenizerFast, tmp_path: Path) -> None:
        """Survives saving and loading the tokenizer; does not depend on training choices; sees other templates."""
        contract = self.bind(tokenizer).contract()
        assert json.loads(json.dumps(contract)) == contract
        assert self.bind(tokenizer, train_on_inputs=True, add_eos_token=False).contract() == contract
        tokenizer("some use", padding="max_length", max_length=8, truncation=True) if tokenizer.pad_token else None
        tokenizer.save_pretrained(tmp_path)
        assert self.bind(PreTrainedTokenizerFast.from_pretrained(tmp_path)).contract() == contract
        others = [bind_template(name, tokenizer).contract()["probe_sha256"] for name in BUILT_IN]
        assert contract["probe_sha256"] not in others or contract["name"] in BUILT_IN
        assert len(set(others)) == len(others)
