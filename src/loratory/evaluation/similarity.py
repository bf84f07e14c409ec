"""BLEU-4 and ROUGE-1/2/L of one answer against one label, to the digit as LLaMA-Factory's predict stage reports them.

The words come from jieba and the numbers from nltk and rouge_chinese themselves; only the longest common subsequence
is ours, because the package's table of a dictionary per cell takes minutes on long answers. Its integers are the same.
"""

import contextlib
import io
import logging
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from loratory.errors import MissingExtraError

ROUGE_EPSILON = 1e-8


@dataclass(frozen=True, slots=True)
class Similarity:
    """Percent values of one row, each rounded to four decimals."""

    bleu_4: float
    rouge_1: float
    rouge_2: float
    rouge_l: float


@contextlib.contextmanager
def _quiet_import() -> Iterator[None]:
    # Invalid escapes in the sources of jieba and rouge_chinese, and jieba's use of pkg_resources.
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=r".*invalid escape sequence", category=SyntaxWarning)
        warnings.filterwarnings("ignore", message=r".*invalid escape sequence", category=DeprecationWarning)
        warnings.filterwarnings("ignore", message=r".*pkg_resources", category=UserWarning)
        warnings.filterwarnings("ignore", message=r".*pkg_resources", category=DeprecationWarning)
        yield


def lcs_length(first: Sequence[str], second: Sequence[str]) -> int:
    """Length of the longest common subsequence, by bit-parallel rows (Hyyrö 2004): O(n * m / machine word)."""
    places: dict[str, int] = {}
    for index, word in enumerate(first):
        places[word] = places.get(word, 0) | (1 << index)
    full = (1 << len(first)) - 1
    row = full
    for word in second:
        hit = row & places.get(word, 0)
        row = ((row + hit) | (row - hit)) & full
    return len(first) - row.bit_count()


class SimilarityScorer:
    """Scores answers; loads jieba's dictionary once.

    Raises:
        MissingExtraError: When jieba, nltk or rouge_chinese is not installed.
    """

    def __init__(self) -> None:
        try:
            with _quiet_import(), contextlib.redirect_stderr(io.StringIO()):
                import jieba
                from nltk.translate.bleu_score import SmoothingFunction, sentence_bleu
                from rouge_chinese import Rouge

                jieba.setLogLevel(logging.WARNING)
                jieba.initialize()
        except ImportError as error:
            raise MissingExtraError("BLEU and ROUGE", "metrics") from error
        self._cut: Callable[[str], Iterable[str]] = jieba.cut
        self._rouge = Rouge(metrics=["rouge-1", "rouge-2"])
        self._sentence_bleu = sentence_bleu
        self._smoothing = SmoothingFunction().method3

    def score(self, prediction: str, label: str) -> Similarity:
        """BLEU-4 over characters (one reference, smoothing method 3) and ROUGE over jieba words, in percent."""
        rouge_1, rouge_2, rouge_l = self._rouges(prediction, label)
        bleu = self._sentence_bleu([list(label)], list(prediction), smoothing_function=self._smoothing)
        return Similarity(
            bleu_4=round(float(bleu) * 100, 4),
            rouge_1=round(rouge_1 * 100, 4),
            rouge_2=round(rouge_2 * 100, 4),
            rouge_l=round(rouge_l * 100, 4),
        )

    def _rouges(self, prediction: str, label: str) -> tuple[float, float, float]:
        predicted = " ".join(self._cut(prediction))
        expected = " ".join(self._cut(label))
        if not predicted.split() or not expected.split():
            return 0.0, 0.0, 0.0
        scores = self._rouge.get_scores(predicted, expected)[0]
        predicted_words, expected_words = self._words(predicted), self._words(expected)
        length = lcs_length(expected_words, predicted_words)
        precision, recall = length / len(predicted_words), length / len(expected_words)
        rouge_l = 2.0 * ((precision * recall) / (precision + recall + ROUGE_EPSILON))
        return float(scores["rouge-1"]["f"]), float(scores["rouge-2"]["f"]), rouge_l

    def _words(self, text: str) -> list[str]:
        # As rouge_chinese does it: a blank line inside the text becomes one empty word, which counts.
        sentences = [" ".join(piece.split()) for piece in self._rouge.cut_sent(text) if piece]
        return [word for sentence in sentences for word in sentence.split(" ")]
