"""The demo's run file: the one that `loratory demo` trains with, as text, for any folder.

`examples/telecom.yaml` is this text for the default folder, so that what the demo did can be done again by hand.
"""

import re
from pathlib import Path

from loratory.errors import ConfigError

DEFAULT_WORKDIR = Path("outputs/demo")

_TEXT = """\
# The demo's run: customer questions in, answer codes out. `loratory demo` makes the model and the data named here;
# then `loratory train examples/telecom.yaml --overwrite` repeats its training alone.
model:
  model_name_or_path: {workdir}/base_model   # SmolLM2-135M-Instruct, dequantised from Q4_1
data:
  train: {workdir}/data/train.json
  test: {workdir}/data/test.json
  format: alpaca
  template: chat
  system: Answer with codes.
  cutoff_len: 128
adapter:
  rank: 16
  alpha: 32
  targets: all
train:
  max_steps: 125
  batch_size: 8
  learning_rate: 2.0e-3
  schedule: cosine
  warmup_ratio: 0.05
  seed: 42
predict:
  max_new_tokens: 32
run:
  name: telecom
  output_dir: {workdir}
"""


def run_file_text(workdir: Path = DEFAULT_WORKDIR) -> str:
    """Return the run file whose paths lie in a folder.

    Raises:
        ConfigError: The folder's name would need quotes in YAML.
    """
    path = workdir.as_posix()
    if not re.fullmatch(r"[\w./~+@-]+", path):
        raise ConfigError(
            f"workdir: {path!r} has characters other than letters, digits and ./~+@-_; choose another folder"
        )
    return _TEXT.format(workdir=path)
