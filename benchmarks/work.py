"""What all contestants do: the same tokenised rows in the same order, the same base, the same fresh adapter.

Rows are tokenised once, here, and handed to everyone as token ids and labels. They stand in the order in which they
are used: an optimizer step takes the next `batch_size` of them.
"""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

SHARED_DATA = Path(__file__).resolve().parents[2] / "shared" / "data"
DATA = {
    "banking77": SHARED_DATA / "banking77" / "alpaca_train.json",
    "alpaca_en": SHARED_DATA / "alpaca_en" / "alpaca_data_1k.json",
}
CUTOFF_LEN = 256
RANK, ALPHA = 8, 16
TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


@dataclass(frozen=True, slots=True)
class Work:
    """One task for every contestant.

    Attributes:
        data: Name of the data set.
        model: Folder of the base model.
        adapter: Folder of the fresh adapter that all start from (PEFT format).
        rows: JSON file: list of {"input_ids", "labels"}, `num_steps * batch_size` rows in order.
        records: JSON file: the same rows before tokenisation, {"instruction", "input", "output"}.
        batch_size: Rows per optimizer step.
        micro_batch_size: Rows per forward pass of the padded contestants.
        num_steps: Optimizer steps.
        learning_rate: Constant.
        num_threads: CPU threads.
        seed: Seed of everything that draws.
    """

    data: str
    model: str
    adapter: str
    rows: str
    records: str
    batch_size: int
    micro_batch_size: int
    num_steps: int
    learning_rate: float
    num_threads: int
    seed: int

    def write(self, path: Path) -> None:
        """Write as JSON."""
        path.write_text(json.dumps(asdict(self), indent=2) + "\n")

    @classmethod
    def read(cls, path: Path) -> "Work":
        """Read what `write` wrote."""
        return cls(**json.loads(path.read_text()))

    def read_rows(self) -> list[dict[str, list[int]]]:
        """The rows in order."""
        rows: list[dict[str, list[int]]] = json.loads(Path(self.rows).read_text())
        return rows


def prepare(folder: Path, data: str, model: Path, **settings: Any) -> Work:
    """Tokenise the rows and make the fresh adapter; both are written to `folder`.

    Args:
        folder: Where to write.
        data: A key of `DATA`.
        model: Folder of the base model.
        **settings: The numeric fields of `Work`.
    """
    from transformers import AutoTokenizer

    from loratory.data.length import fit_length
    from loratory.data.reader import read_records
    from loratory.data.templates import bind_template
    from loratory.engine.permutation import permutation

    work = Work(
        data=data,
        model=str(model),
        adapter=str(folder / "adapter"),
        rows=str(folder / "rows.json"),
        records=str(folder / "records.json"),
        **settings,
    )
    read = read_records(str(DATA[data]), format="auto", columns={}, system=None, max_bad_rows=0)
    template = bind_template("alpaca", AutoTokenizer.from_pretrained(model))
    order = permutation(len(read.records), seed=work.seed, epoch=0)
    records = [read.records[i] for i in order]
    fit = fit_length(template.sequences(records), cutoff_len=CUTOFF_LEN, truncation="drop")
    needed = work.num_steps * work.batch_size
    if needed > len(fit.sequences):
        raise SystemExit(f"{data} has {len(fit.sequences)} rows of at most {CUTOFF_LEN} tokens; {needed} are needed")
    rows = [
        {
            "input_ids": sequence.token_ids.tolist(),
            "labels": [int(t) if w else -100 for t, w in zip(sequence.token_ids, sequence.weights, strict=True)],
        }
        for sequence in fit.sequences[:needed]
    ]
    Path(work.rows).write_text(json.dumps(rows))
    raw = json.loads(DATA[data].read_text())
    assert len(raw) == len(read.records)
    Path(work.records).write_text(json.dumps([raw[order[i]] for i in fit.indices[:needed]]))
    save_fresh_adapter(model, folder / "adapter", seed=work.seed)
    return work


def save_fresh_adapter(model: Path, folder: Path, *, seed: int) -> None:
    """Write the LoRA adapter that everyone starts from."""
    import peft
    import torch
    from transformers import AutoModelForCausalLM

    torch.manual_seed(seed)
    config = peft.LoraConfig(
        r=RANK, lora_alpha=ALPHA, lora_dropout=0.0, target_modules=list(TARGETS), task_type="CAUSAL_LM"
    )
    peft.get_peft_model(AutoModelForCausalLM.from_pretrained(model), config).save_pretrained(folder)
