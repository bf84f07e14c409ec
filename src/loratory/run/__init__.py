"""The run directory: lock, atomic checkpoints, metrics, provenance."""

from loratory.run.checkpoints import Checkpoint, CheckpointStore
from loratory.run.commit import publish_directory, write_text
from loratory.run.directory import RunDirectory
from loratory.run.ending import Ending, read_ending
from loratory.run.lock import Writer, writer_of
from loratory.run.metrics import MetricsLog, read_metrics
from loratory.run.provenance import Provenance, read_provenance, write_provenance

__all__ = [
    "Checkpoint",
    "CheckpointStore",
    "Ending",
    "MetricsLog",
    "Provenance",
    "RunDirectory",
    "Writer",
    "publish_directory",
    "read_ending",
    "read_metrics",
    "read_provenance",
    "write_provenance",
    "write_text",
    "writer_of",
]
