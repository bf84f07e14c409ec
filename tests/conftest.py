"""Fixtures that every room's tests share: a tokenizer trained here, tiny random models, the machine's shared data.

Nothing here reaches the network: the hub is switched off before any library that reads the switch is imported.
"""

import os

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TRANSFORMERS_OFFLINE"] = "1"
os.environ["HF_DATASETS_OFFLINE"] = "1"
os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ.setdefault("OMP_NUM_THREADS", "1")

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from hypothesis import settings
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

# A loaded machine is no fault of the code, so examples have no deadline.
settings.register_profile("loratory", deadline=None, database=None, max_examples=50)
settings.load_profile("loratory")
torch.set_num_threads(1)
transformers.utils.logging.set_verbosity_error()
transformers.utils.logging.disable_progress_bar()

BOS, EOS, PAD, TURN_START, TURN_END = "<s>", "</s>", "<pad>", "<|im_start|>", "<|im_end|>"

CHATML = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)

CORPUS = [
    "Below is an instruction that describes a task. Write a response that appropriately completes the request.",
    "### Instruction:\n### Input:\n### Response:\n",
    "system user assistant tool",
    "Please cancel my roaming pack. cancel_68",
    "How much is the 9.9 plan? intro_111|9.9|11.9|activate_98",
    "The quick brown fox jumps over the lazy dog 0123456789.",
    "What is the answer to this question? The answer is yes. The answer is no.",
    "请问如何取消流量包？ 取消 开通 套餐 查询",
]

FAMILIES = ("llama", "qwen2", "qwen3", "gemma", "mistral", "phi", "gpt2", "gpt_neox", "bloom")


def _train_tokenizer() -> PreTrainedTokenizerFast:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        # <|endoftext|>: the Qwen2 tokenizer class appends it on loading when it is missing, and outgrows the model.
        special_tokens=[BOS, EOS, PAD, TURN_START, TURN_END, "<|endoftext|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(CORPUS * 4, trainer)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=BOS,
        eos_token=EOS,
        pad_token=PAD,
        model_max_length=512,
        clean_up_tokenization_spaces=False,
    )
    fast.chat_template = CHATML
    return fast


def _tiny_config(family: str, tokenizer: PreTrainedTokenizerFast) -> transformers.PretrainedConfig:
    """A 2-layer configuration of the family with hidden width 32 and 4 heads."""
    ids = {
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
        "vocab_size": len(tokenizer),
    }
    usual: dict[str, Any] = {
        **ids,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "max_position_embeddings": 512,
    }
    grouped = {**usual, "num_key_value_heads": 2}
    match family:
        case "llama":
            return transformers.LlamaConfig(**grouped)
        case "mistral":
            return transformers.MistralConfig(**grouped, sliding_window=None)
        case "qwen2":
            return transformers.Qwen2Config(**grouped)
        case "qwen3":
            return transformers.Qwen3Config(**grouped, head_dim=8)
        case "gemma":
            return transformers.GemmaConfig(**grouped, head_dim=8)
        case "phi":
            return transformers.PhiConfig(**usual, resid_pdrop=0.0, embd_pdrop=0.0, attention_dropout=0.0)
        case "gpt_neox":
            return transformers.GPTNeoXConfig(**usual)
        case "gpt2":
            return transformers.GPT2Config(
                **ids, n_embd=32, n_layer=2, n_head=4, n_positions=512, resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0
            )
        case "bloom":
            return transformers.BloomConfig(**ids, hidden_size=32, n_layer=2, n_head=4)
        case _:
            raise ValueError(f"no tiny configuration for family {family!r}; have {', '.join(FAMILIES)}")


def _tiny_model(family: str, tokenizer: PreTrainedTokenizerFast) -> transformers.PreTrainedModel:
    """A random model in fp32 and eval mode; equal weights at every call, and no trace in the global generator."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = transformers.AutoModelForCausalLM.from_config(_tiny_config(family, tokenizer), dtype=torch.float32)
    return model.eval()


@pytest.fixture(scope="session")
def _trained_tokenizer() -> PreTrainedTokenizerFast:
    return _train_tokenizer()


@pytest.fixture(scope="session")
def _tokenizer_dir(_trained_tokenizer: PreTrainedTokenizerFast, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tiny-tokenizer")
    _trained_tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture
def tiny_tokenizer(_tokenizer_dir: Path) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer of 400 tokens with bos, eos, pad and a ChatML template; fresh for each test."""
    return PreTrainedTokenizerFast.from_pretrained(_tokenizer_dir)


@pytest.fixture(scope="session")
def tiny_model_dir(
    _trained_tokenizer: PreTrainedTokenizerFast, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], Path]:
    """A factory: family name -> folder with a random tiny model of it and the tokenizer. Read-only for tests."""
    made: dict[str, Path] = {}

    def make(family: str) -> Path:
        if family not in made:
            folder = tmp_path_factory.mktemp(f"tiny-{family}")
            _tiny_model(family, _trained_tokenizer).save_pretrained(folder)
            _trained_tokenizer.save_pretrained(folder)
            made[family] = folder
        return made[family]

    return make


@pytest.fixture(scope="session")
def tiny_llama_dir(tiny_model_dir: Callable[[str], Path]) -> Path:
    """A folder with a random 2-layer Llama (hidden 32, 4 heads, 2 kv heads) and the tokenizer. Read-only for tests."""
    return tiny_model_dir("llama")


@pytest.fixture
def tiny_llama(_trained_tokenizer: PreTrainedTokenizerFast) -> LlamaForCausalLM:
    """A fresh Llama in fp32 with the weights of `tiny_llama_dir`; tests may change it."""
    model = _tiny_model("llama", _trained_tokenizer)
    assert isinstance(model, LlamaForCausalLM)
    return model


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real data sets beside the repository; tests that need it skip where it is absent."""
    folder = Path(__file__).resolve().parents[2] / "shared" / "data"
    if not folder.is_dir():
        pytest.skip(f"real-input test: no shared data beside the repository ({folder})")
    return folder
