"""`loratory import`, and training from what it writes: one tiny run per tool."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from loratory.cli.app import make_app
from loratory.run import read_metrics

WORDS = ["cancel", "roaming", "plan", "what", "is", "the", "answer"]
ROWS = [{"instruction": f"{WORDS[i % 7]} {WORDS[i % 5]} {i}", "input": "", "output": f"code_{i}"} for i in range(16)]
# What a test machine needs: no GPU precision, no 8-bit base, few steps.
SMALL = [
    "model.dtype=float32",
    "train.precision=auto",
    "quantization.load_in_8bit=false",
    "quantization.load_in_4bit=false",
    "train.max_steps=2",
    "train.num_threads=1",
]


@pytest.fixture
def work(tmp_path: Path, tiny_llama_dir: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "rows.json").write_text(json.dumps(ROWS))
    (tmp_path / "text.jsonl").write_text("".join(json.dumps({"text": f"the answer is {i}"}) + "\n" for i in range(16)))
    messages = [[{"role": "user", "content": "a"}, {"role": "assistant", "content": f"b {i}"}] for i in range(16)]
    (tmp_path / "chat.jsonl").write_text("".join(json.dumps({"messages": each}) + "\n" for each in messages))
    (tmp_path / "dataset_info.json").write_text(json.dumps({"mine": {"file_name": "rows.json"}}))
    (tmp_path / "model").symlink_to(tiny_llama_dir)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def invoke(*arguments: object) -> Result:
    result = CliRunner().invoke(make_app(), [str(each) for each in arguments])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result


TOOLS = {
    "llamafactory": (
        "lf.yaml",
        "model_name_or_path: model\nstage: sft\nfinetuning_type: lora\ndataset: mine\ntemplate: default\n"
        "lora_target: q_proj,v_proj\nper_device_train_batch_size: 2\ngradient_accumulation_steps: 2\n"
        "output_dir: saves/lf\ncutoff_len: 256\nbf16: true\ndisable_gradient_checkpointing: true\n",
        ["dataset_info.json"],
    ),
    "alpaca-lora": (
        "run.sh",
        "python finetune.py --base_model model --data_path rows.json --output_dir saves/al --batch_size 4 "
        "--micro_batch_size 2 --val_set_size 4 --lora_target_modules '[q_proj,v_proj]'\n",
        [],
    ),
    "llm-pruner": (
        "run.sh",
        "python post_training.py --prune_model model --data_path rows.json --output_dir saves/lp --batch_size 4 "
        "--micro_batch_size 2 --val_set_size 4\n",
        [],
    ),
    "peft-sft": (
        "run.sh",
        "python train.py --model_name_or_path model --dataset_name text.jsonl --use_peft_lora True --lora_r 4 "
        "--max_length 128 --output_dir saves/ps --splits train --use_flash_attn True\n",
        [],
    ),
    "axolotl": (
        "ax.yaml",
        "base_model: model\nadapter: qlora\nload_in_4bit: true\nlora_r: 4\nlora_alpha: 8\nlora_target_linear: true\n"
        "datasets:\n  - path: json\n    data_files: rows.json\n    type: alpaca\nmicro_batch_size: 2\n"
        "learning_rate: 0.0002\noutput_dir: saves/ax\n",
        [],
    ),
    "trl-sft": (
        "trl.yaml",
        "model_name_or_path: model\ndataset_name: chat.jsonl\nuse_peft: true\nassistant_only_loss: true\n"
        "per_device_train_batch_size: 4\noutput_dir: saves/ts\ngradient_checkpointing: false\n",
        [],
    ),
    "peft": ("adapter.json", '{"peft_type": "LORA", "r": 4, "target_modules": ["q_proj"]}', []),
}


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")  # PEFT's own loader
@pytest.mark.parametrize("tool", TOOLS)
def test_an_imported_run_trains(work: Path, tool: str) -> None:
    name, text, more = TOOLS[tool]
    (work / name).write_text(text)
    fields = [] if tool != "peft" else ["model.model_name_or_path=model", "data.train=rows.json"]
    result = invoke("import", name, *more, *fields, "--output", "mine/run.yaml")
    assert result.exit_code == 0, result.output
    assert result.stdout.splitlines()[-1] == "run file: mine/run.yaml"
    assert (work / "mine" / "run.yaml").read_text().splitlines()[0].endswith(f"as settings of {tool}.")
    trained = invoke("train", "mine/run.yaml", *SMALL)
    assert trained.exit_code == 0, trained.output
    run_dir = Path(trained.stdout.splitlines()[-1].removeprefix("run directory: "))
    assert (run_dir / "final_model" / "adapter_config.json").is_file()
    assert all(line["loss"] > 0 for line in read_metrics(run_dir / "metrics.jsonl") if "loss" in line)


def test_the_table_says_what_became_of_each_setting(work: Path) -> None:
    (work / "lf.yaml").write_text(TOOLS["llamafactory"][1] + "use_galore: true\nlora_rnak: 3\n")
    result = invoke("import", "lf.yaml", "--output", "run.yaml")
    assert "not honoured" in result.stdout
    assert "use_galore=true" in result.stdout
    assert "Did you mean 'lora_rank'?" in result.stdout
    assert "1 setting not honoured: the run will differ from llamafactory's" in result.stderr


def test_a_command_line_as_text_is_not_executed(work: Path) -> None:
    command = "python finetune.py --base_model model --data_path rows.json"
    assert invoke("import", "--command", command, "--output", "a.yaml").exit_code == 0
    refused = invoke("import", "--command", f"{command} && touch executed", "--output", "b.yaml")
    assert refused.exit_code == 2
    assert not (work / "executed").exists()
    assert not (work / "b.yaml").exists()


def test_a_run_file_is_not_replaced_unasked(work: Path) -> None:
    (work / "lf.yaml").write_text(TOOLS["llamafactory"][1])
    (work / "run.yaml").write_text("mine")
    refused = invoke("import", "lf.yaml")
    assert refused.exit_code == 2
    assert "exists already" in refused.stderr
    assert (work / "run.yaml").read_text() == "mine"
    assert invoke("import", "lf.yaml", "--overwrite").exit_code == 0
    assert (work / "run.yaml").read_text() != "mine"


def test_nothing_to_read(work: Path) -> None:
    assert "give files of another tool" in invoke("import").stderr
    assert "--as: 'axolot' is unknown. Did you mean 'axolotl'?" in invoke("import", "a.yaml", "--as", "axolot").stderr
