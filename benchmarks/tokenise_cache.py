"""`python -m benchmarks.tokenise_cache`: seconds until 50,000 rows are ready, on the first start and on the second.

Measures the whole stage as a run does it: binding the template, digests of file, template and code, then reading and
tokenising, or taking the rows from the cache with every byte compared. One process; a byte-level tokenizer trained
here.
"""

import argparse
import json
import random
import tempfile
import time
from pathlib import Path

from accelerate import Accelerator
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from loratory.config import RunConfig
from loratory.data.templates import bind_template
from loratory.engine.ranks import Ranks
from loratory.engine.ready_rows import ready_rows
from loratory.objective import make_objective

_TEXT = "please cancel the roaming plan of my second number and tell me what it costs per month today"
_WORDS = _TEXT.split()


def make_tokenizer(vocabulary: int) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer, filled up to the size of a real one's vocabulary."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=1000,
        special_tokens=["<s>", "</s>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([_TEXT] * 8, trainer)
    state = json.loads(tokenizer.to_str())
    vocab = state["model"]["vocab"]
    for index in range(len(vocab), vocabulary):
        vocab[f"unused{index}"] = index
    filled = Tokenizer.from_str(json.dumps(state))
    return PreTrainedTokenizerFast(tokenizer_object=filled, bos_token="<s>", eos_token="</s>")


def main() -> None:
    """Measure and print one line per start."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=50_000)
    parser.add_argument("--vocabulary", type=int, default=50_000)
    arguments = parser.parse_args()
    tokenizer = make_tokenizer(arguments.vocabulary)
    ranks = Ranks(Accelerator(cpu=True))
    generator = random.Random(0)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "rows.jsonl")
        with file.open("w", encoding="utf-8") as stream:
            for number in range(arguments.rows):
                question = " ".join(generator.choices(_WORDS, k=generator.randint(5, 40)))
                row = {"instruction": question, "input": "", "output": f"answer_{number}"}
                stream.write(json.dumps(row) + "\n")
        config = RunConfig.model_validate(
            {
                "model": {"model_name_or_path": "none"},
                "data": {"train": str(file), "template": "alpaca"},
                "run": {"output_dir": folder, "name": "bench"},
            }
        )
        for start in ("first", "second"):
            begin = time.perf_counter()
            template = bind_template("alpaca", tokenizer)
            objective = make_objective(config.objective)
            rows = ready_rows(config, template, objective, ranks=ranks, note=lambda _: None)
            seconds = time.perf_counter() - begin
            tokens = sum(row.num_tokens for row in rows.train)
            print(f"{start} start: {seconds:.2f} s for {len(rows.train)} rows, {tokens} tokens")


if __name__ == "__main__":
    main()
