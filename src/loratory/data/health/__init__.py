"""The data doctor: what is wrong with rows before anything is trained on them.

It streams: per row it keeps a few numbers, never text, so that a million rows fit in bounded memory. It needs no model
weights, and no tokenizer unless tokens are asked for. It changes nothing.
"""
