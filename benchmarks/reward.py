"""A reward model on real pairs beside TRL's: `python -m benchmarks.reward`.

Everyone gets the same token ids in the same optimizer batches, and starts from the same LoRA adapter and head.
"""

from pathlib import Path

from benchmarks.pairs import SEED, Contestants, pair_flags, race, write_work
from benchmarks.work import ALPHA, RANK
from loratory.adapter import attach_adapter, save_adapter
from loratory.config import AdapterConfig, ModelConfig
from loratory.data.templates import bind_template
from loratory.demo.base_model import ensure_base_model
from loratory.model import load_model
from loratory.model.task import ClassHead

CONTESTANTS: Contestants = {
    "ours": ("reward_ours", ()),
    "ours, padded twin": ("reward_ours", ("--path", "padded")),
    "trl": ("reward_trl", ()),
    "trl-tuned": ("reward_trl", ("--tuned",)),
}


def main() -> None:
    """Prepare the pairs, run contestants in turn, print a table."""
    flags = pair_flags("reward", CONTESTANTS, batch_size=4).parse_args()
    model = flags.model or ensure_base_model()
    loaded = load_model(ModelConfig(model_name_or_path=str(model)), head=ClassHead((), seed=SEED))
    work = write_work(flags, model, bind_template("chat", loaded.tokenizer))
    section = AdapterConfig(rank=RANK, alpha=ALPHA)
    attached = attach_adapter(loaded.model, section, seed=SEED, new_modules=loaded.new_modules)
    save_adapter(attached.model, Path(work.adapter), base_identity=loaded.identity)
    race(flags, CONTESTANTS, work)


if __name__ == "__main__":
    main()
