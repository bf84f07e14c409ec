"""Choosing the next token of rows that each have their own way of drawing."""

from collections.abc import Sequence
from dataclasses import replace

import torch

from loratory.infer.sampling import Sampling, draw_tokens
from loratory.infer.server.row import Row


def choose_tokens(rows: Sequence[Row], logits_PV: torch.Tensor) -> list[int]:
    """The next token of each row; rows that draw alike are drawn together."""
    tokens: list[int] = logits_PV.argmax(dim=-1).tolist()
    alike: dict[Sampling, list[int]] = {}
    for place, row in enumerate(rows):
        if row.request.sampling is not None:
            alike.setdefault(replace(row.request.sampling, seed=0), []).append(place)
    for sampling, places in alike.items():
        uniforms = torch.stack([rows[place].uniform for place in places])
        drawn = draw_tokens(logits_PV[places], uniforms, sampling).tolist()
        for place, token in zip(places, drawn, strict=True):
            tokens[place] = token
    return tokens
