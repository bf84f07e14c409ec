"""The limited process: `python -m loratory.interop.pickled FILE FOLDER MAX_CPU_S MAX_FILE_BYTES [weights]`.

It limits itself before it opens the file, and leaves either the extracted model or `refusal.json` in the folder.
"""

import json
import resource
import sys
from pathlib import Path

from loratory.errors import LoratoryError, ResourceError
from loratory.interop.pickled.extract import REFUSAL_FILE, extract, extract_weights

MAX_MEMORY_BYTES = 2 << 30
WEIGHTS_ONLY = "weights"


def main() -> int:
    """Extract under limits; returns the exit code of the refusal, or 0."""
    path, folder = Path(sys.argv[1]), Path(sys.argv[2])
    limit(cpu_s=int(sys.argv[3]), file_bytes=int(sys.argv[4]))
    try:
        (extract_weights if sys.argv[5:] == [WEIGHTS_ONLY] else extract)(path, folder)
    except LoratoryError as fault:
        return refuse(folder, fault)
    except (MemoryError, RecursionError) as fault:
        words = f"reading it needs more than the {MAX_MEMORY_BYTES >> 20} MiB allowed ({type(fault).__name__})"
        return refuse(folder, ResourceError(words))
    except OSError as fault:
        return refuse(folder, ResourceError(f"it could not be read or copied: {fault}"))
    return 0


def limit(*, cpu_s: int, file_bytes: int) -> None:
    """Cap memory, processor time and file size of this process; allow it no child and no core dump."""
    for kind, most in (
        (resource.RLIMIT_AS, MAX_MEMORY_BYTES),
        (resource.RLIMIT_CPU, cpu_s),
        (resource.RLIMIT_FSIZE, file_bytes),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_NPROC, 0),
    ):
        _, hard = resource.getrlimit(kind)
        bound = most if hard == resource.RLIM_INFINITY else min(most, hard)
        resource.setrlimit(kind, (bound, bound))


def refuse(folder: Path, fault: LoratoryError) -> int:
    """Leave the reason for the parent."""
    text = json.dumps({"kind": type(fault).__name__, "reason": str(fault)[:4000]})
    (folder / REFUSAL_FILE).write_text(text, encoding="utf-8")
    return fault.exit_code


if __name__ == "__main__":
    sys.exit(main())
