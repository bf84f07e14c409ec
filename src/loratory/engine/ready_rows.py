"""The rows of a run, tokenised once: from the cache, or by the main rank while the others wait."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from loratory.config import RunConfig
from loratory.data.templates import BoundTemplate
from loratory.engine.mixture import make_mixture
from loratory.engine.prepare import PreparedRows, data_fingerprints, prepare_rows
from loratory.engine.ranks import Ranks
from loratory.engine.row_cache import CACHE_NAME, RowCache, row_key
from loratory.objective import Objective


def ready_rows(
    config: RunConfig, template: BoundTemplate, objective: Objective, *, ranks: Ranks, note: Callable[[str], None]
) -> PreparedRows:
    """The run's rows, with the mixture of their sources.

    The main rank looks and, if need be, tokenises and stores first; the others then read what it stored, or, where it
    could not store or failed, do the work themselves and come to the same rows or the same error.

    Raises:
        DataError: See `prepare_rows`.
        ConfigError: See `make_mixture`.
    """
    section = config.data
    fingerprints = data_fingerprints(section)
    if section.token_cache:
        cache = RowCache(Path(config.run.output_dir) / CACHE_NAME, note=note)
        key = row_key(section, template, config.objective.model_dump(mode="json"), fingerprints)
        with ranks.main_first():
            rows = cache.load(key, may_discard=ranks.is_main)
            if rows is not None:
                note("tokenised rows: from the cache")
            else:
                rows = prepare_rows(section, template, objective, fingerprints=fingerprints)
                if ranks.is_main:
                    cache.store(key, rows)
    else:
        rows = prepare_rows(section, template, objective, fingerprints=fingerprints)
    mixture = make_mixture(section.mix_strategy, rows.source_sizes, section.mix_weights)
    return replace(rows, mixture=mixture)
