"""DPO on real pairs beside TRL's: `python -m benchmarks.preference`.

Everyone gets the same token ids in the same optimizer batches, the same fresh LoRA adapter and the same rate. The
reference's log-probabilities of the pairs used are part of everyone's time: ours and TRL's tuned form compute them once
in front, TRL's default beside every step.
"""

from pathlib import Path

from transformers import AutoTokenizer

from benchmarks.pairs import SEED, Contestants, pair_flags, race, write_work
from benchmarks.work import save_fresh_adapter
from loratory.data.templates import bind_template
from loratory.demo.base_model import ensure_base_model

CONTESTANTS: Contestants = {
    "ours": ("dpo_ours", ()),
    "trl": ("dpo_trl", ()),
    "trl-tuned": ("dpo_trl", ("--tuned",)),
}


def main() -> None:
    """Prepare the pairs, run contestants in turn, print a table."""
    flags = pair_flags("preference", CONTESTANTS, batch_size=8).parse_args()
    model = flags.model or ensure_base_model()
    work = write_work(flags, model, bind_template("chat", AutoTokenizer.from_pretrained(model)))
    save_fresh_adapter(model, Path(work.adapter), seed=SEED)
    race(flags, CONTESTANTS, work)


if __name__ == "__main__":
    main()
