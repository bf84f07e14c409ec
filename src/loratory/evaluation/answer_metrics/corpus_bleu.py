"""BLEU of the whole set of answers as sacrebleu computes it: n-gram counts are summed before they are divided."""

from collections.abc import Mapping, Sequence

import numpy as np

from loratory.errors import MissingExtraError
from loratory.evaluation.answer_metrics.family import Definition, FloatArray, Statistics


class CorpusBleu:
    """`bleu`."""

    @property
    def definitions(self) -> tuple[Definition, ...]:
        """The family's metric."""
        words = (
            "corpus BLEU of 13a tokens, mixed case, one reference, exponential smoothing (sacrebleu's signature "
            "nrefs:1|case:mixed|eff:no|tok:13a|smooth:exp), percent"
        )
        return (Definition("bleu", "bleu@sacrebleu", words),)

    def fits(self, labels: Sequence[str]) -> bool:
        """Only when asked for: meant for sentences."""
        return False

    def measure(
        self, predictions: Sequence[str], labels: Sequence[str], names: Sequence[str]
    ) -> Mapping[str, Statistics]:
        """Lengths and n-gram counts of each row."""
        try:
            from sacrebleu.metrics.bleu import BLEU
        except ImportError as error:
            raise MissingExtraError("BLEU of sacrebleu", "metrics") from error
        rows = []
        for prediction, label in zip(predictions, labels, strict=True):
            score = BLEU().corpus_score([prediction], [[label]])
            rows.append([score.sys_len, score.ref_len, *score.counts, *score.totals])

        def combine(sums_RK: FloatArray, counts_R: FloatArray) -> FloatArray:
            scores = []
            for sums in sums_RK:
                sys_len, ref_len, *grams = (int(value) for value in np.rint(sums))
                scores.append(BLEU.compute_bleu(grams[:4], grams[4:], sys_len, ref_len, smooth_method="exp").score)
            return np.array(scores)

        return {name: Statistics(np.array(rows, dtype=np.float64), combine) for name in names}
