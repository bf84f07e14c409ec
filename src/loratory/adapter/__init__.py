"""Adapters: attaching them to a base, targets, loading and saving strictly, inspecting."""

from loratory.adapter.attach import AttachedAdapter, attach_adapter
from loratory.adapter.check import check_adapter
from loratory.adapter.files import AdapterFiles, read_adapter
from loratory.adapter.inspect import AdapterCard, describe_adapter
from loratory.adapter.load import load_adapter
from loratory.adapter.save import save_adapter
from loratory.adapter.targets import Targets, resolve_targets
from loratory.adapter.trainable import TargetCount, TrainableReport

__all__ = [
    "AdapterCard",
    "AdapterFiles",
    "AttachedAdapter",
    "TargetCount",
    "Targets",
    "TrainableReport",
    "attach_adapter",
    "check_adapter",
    "describe_adapter",
    "load_adapter",
    "read_adapter",
    "resolve_targets",
    "save_adapter",
]
