"""A SentencePiece vocabulary, told by tokenizer.json as merges, becomes tokens with scores that cut text alike."""

import json
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import AutoModelForCausalLM, LlamaConfig, PreTrainedTokenizerFast

from loratory.data.templates import bind_template
from loratory.export.gguf_file import export_gguf
from loratory.export.gguf_vocabulary import read_vocabulary

pytest.importorskip("gguf")
TEXTS = ["The quick brown fox jumps over the lazy dog.", "cancel_68 intro_111|9.9", "请问如何取消流量包？"]


@pytest.fixture(scope="module")
def sentencepiece() -> PreTrainedTokenizerFast:
    trained = Tokenizer(models.BPE())
    trained.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    trained.pre_tokenizer = pre_tokenizers.Split("▁", "merged_with_next")
    trained.train_from_iterator(TEXTS * 4, trainers.BpeTrainer(vocab_size=120, show_progress=False))
    model = json.loads(trained.to_str())["model"]
    names = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    names += sorted(model["vocab"], key=model["vocab"].get)
    merges = [tuple(merge) for merge in model["merges"]]
    whole = Tokenizer(
        models.BPE(
            {name: i for i, name in enumerate(names)}, merges, unk_token="<unk>", byte_fallback=True, fuse_unk=True
        )
    )
    whole.normalizer = trained.normalizer
    whole.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=whole, bos_token="<s>", eos_token="</s>", unk_token="<unk>", clean_up_tokenization_spaces=False
    )


def test_kinds_and_scores(sentencepiece: PreTrainedTokenizerFast) -> None:
    found = read_vocabulary(sentencepiece, num_rows=len(sentencepiece))
    assert (found.model, found.pre, found.merges, found.adds_space) == ("llama", None, (), True)
    assert found.kinds[:4] == (2, 3, 3, 6)
    assert found.scores is not None
    # The earlier a token is merged, the higher its score.
    merges = json.loads(sentencepiece.backend_tokenizer.to_str())["model"]["merges"]
    first, last = ("".join(merges[i]) for i in (0, -1))
    scores = dict(zip(found.tokens, found.scores, strict=True))
    assert scores[first] > scores[last]


def test_the_file_cuts_text_alike(sentencepiece: PreTrainedTokenizerFast, tmp_path: Path) -> None:
    config = LlamaConfig(
        vocab_size=len(sentencepiece), hidden_size=32, intermediate_size=64, num_hidden_layers=1,
        num_attention_heads=2, num_key_value_heads=1, max_position_embeddings=512, bos_token_id=1, eos_token_id=2,
    )  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
    template = bind_template("alpaca", sentencepiece)
    report = export_gguf(model, sentencepiece, tmp_path / "m.gguf", template=template, chat_template=None, dtype="f32")
    assert report.measured.max_logit_difference == 0
