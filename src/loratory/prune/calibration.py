"""The text that Taylor importance is measured on: windows spread evenly over it, tokenised once."""

from pathlib import Path

from transformers import PreTrainedTokenizerBase

from loratory.data.sequence import TokenSequence
from loratory.errors import ConfigError
from loratory.evaluation.corpus import read_corpus
from loratory.evaluation.windows import Windowing, cut, opening_token

NUM_WINDOWS = 32
WINDOW_TOKENS = 128


def calibration_windows(
    text: str,
    tokenizer: PreTrainedTokenizerBase,
    *,
    data_dir: Path | None = None,
    num_windows: int = NUM_WINDOWS,
    window_tokens: int = WINDOW_TOKENS,
) -> list[TokenSequence]:
    """Cut a text into windows and take some of them, evenly spread.

    Args:
        text: A text file, or what `loratory.evaluation.corpus.read_corpus` knows.
        tokenizer: The model's tokenizer.
        data_dir: Folder with local copies of known texts.
        num_windows: How many windows at most.
        window_tokens: Length of each.

    Raises:
        ConfigError: A number out of range.
        DataError: The text cannot be read or is too short.
    """
    if num_windows < 1:
        raise ConfigError(f"--calibration-windows: got {num_windows}; at least 1 is needed")
    corpus = read_corpus(text, data_dir=data_dir)
    token_ids = list(tokenizer(corpus.text, add_special_tokens=False, verbose=False).input_ids)
    windowing = Windowing(window_tokens, window_tokens, opening_token(tokenizer, "auto"))
    windows = cut(token_ids, windowing, bos_token_id=tokenizer.bos_token_id)
    count = min(num_windows, len(windows))
    return [windows[number * len(windows) // count] for number in range(count)]
