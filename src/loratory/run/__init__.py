"""The run directory: lock, atomic checkpoints, metrics, provenance."""

from loratory.run.checkpoints import Checkpoint, CheckpointStore
from loratory.run.commit import publish_directory, write_text
from loratory.run.directory import RunDirectory
from loratory.run.metrics import MetricsLog, read_metrics
from loratory.run.provenance import Provenance, read_provenance, write_provenance

__all__ = [
    "Checkpoint",
    "CheckpointStore",
    "MetricsLog",
    "Provenance",
    "RunDirectory",
    "publish_directory",
    "read_metrics",
    "read_provenance",
    "write_provenance",
    "write_text",
]
