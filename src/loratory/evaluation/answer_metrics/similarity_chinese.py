"""BLEU-4 over characters and ROUGE over jieba words, as LLaMA-Factory's predict stage reports them."""

from collections.abc import Mapping, Sequence

from loratory.evaluation.answer_metrics.family import Definition, Statistics
from loratory.evaluation.similarity import SimilarityScorer

_WORDS = {
    "bleu-4": "character-level BLEU-4 (nltk sentence_bleu, one reference, smoothing method3), percent, mean over rows",
    "rouge-1": "F1 of distinct jieba words (rouge_chinese), percent, mean over rows",
    "rouge-2": "F1 of distinct jieba word pairs (rouge_chinese), percent, mean over rows",
    "rouge-l": "F1 by longest common subsequence of jieba words (rouge_chinese), percent, mean over rows",
}


class SimilarityChinese:
    """`bleu-4`, `rouge-1`, `rouge-2`, `rouge-l`."""

    @property
    def definitions(self) -> tuple[Definition, ...]:
        """The family's metrics."""
        return tuple(
            Definition(name, f"{name}@{'nltk-char-method3' if name == 'bleu-4' else 'rouge_chinese+jieba'}", words)
            for name, words in _WORDS.items()
        )

    def fits(self, labels: Sequence[str]) -> bool:
        """Always: they are what users of that workflow compare."""
        return True

    def measure(
        self, predictions: Sequence[str], labels: Sequence[str], names: Sequence[str]
    ) -> Mapping[str, Statistics]:
        """Statistics of the metrics asked for."""
        scorer = SimilarityScorer()
        rows = [scorer.score(p, t) for p, t in zip(predictions, labels, strict=True)]
        return {name: Statistics.of_rows([getattr(row, name.replace("-", "_")) for row in rows]) for name in names}
