"""Command lines as text."""

import pytest

from loratory.errors import ConfigError
from loratory.interop.command_line import parse_command, parse_flags, scalar


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("true", True),
        ("False", False),
        ("None", None),
        ("none", "none"),
        ("-1", -1),
        ("1e-4", 1e-4),
        (".5", 0.5),
        ("1_000", "1_000"),
        ("[q_proj,v_proj]", ["q_proj", "v_proj"]),
        ("['a', \"b\", 3]", ["a", "b", 3]),
        ('{"a": 1}', {"a": 1}),
        ("{a", "{a"),
        ("7b", "7b"),
    ],
)
def test_scalars(text: str, value: object) -> None:
    assert scalar(text) == value
    assert type(scalar(text)) is type(value)


def test_a_script_with_settings_comments_and_continued_lines() -> None:
    line = parse_command(
        "#!/bin/bash\nexport A=1\ncd x\nB=2 C=3\n\n"
        "CUDA_VISIBLE_DEVICES=0 python -u x/finetune.py \\\n  --lr=1e-4 --name 'a b' \\\r\n  --flag --off -3  # end\n",
        "run.sh",
    )
    assert line.program == "finetune.py"
    assert line.arguments == {"lr": 1e-4, "name": "a b", "flag": True, "off": -3}
    assert line.processes == 1


def test_words_and_assignments() -> None:
    line = parse_command("llamafactory-cli train run.yaml learning_rate=1e-5 logging_steps=1", "c")
    assert (line.program, line.words) == ("llamafactory-cli", ("train", "run.yaml"))
    assert line.arguments == {"learning_rate": 1e-5, "logging_steps": 1}
    assert parse_command("python -m axolotl.cli.train a.yaml", "c").words == ("a.yaml",)
    assert parse_flags(["--loss-type", "a", "b"], "c") == ({"loss_type": ["a", "b"]}, [])


@pytest.mark.parametrize(
    ("launcher", "processes"),
    [
        ("python", 1),
        ("torchrun --nproc_per_node=4", 4),
        ("torchrun --nproc-per-node 2 --nnodes 3 --master_port 29500", 6),
        ("accelerate launch --num_processes 8 --num_machines 2", 8),
        ("deepspeed --num_gpus=2", 2),
        ("WORLD_SIZE=2 torchrun --nproc_per_node=2", 2),
        ("WORLD_SIZE=3 python", 3),
        ("torchrun --nproc_per_node=auto", 1),
    ],
)
def test_processes(launcher: str, processes: int) -> None:
    assert parse_command(f"{launcher} finetune.py --base_model m", "c").processes == processes


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "no commands"),
        ("echo hello", "no commands"),
        ("python finetune.py --a 1\npython finetune.py --a 2", "2 commands"),
        ("python finetune.py --a $MODEL", "for a shell to expand"),
        ("python finetune.py --a $(touch x)", "for a shell to expand|alone"),
        ("python finetune.py --a `touch x`", "for a shell to expand"),
        ("python finetune.py --a 1 && rm -r x", "nothing is executed"),
        ("python finetune.py --a 1 2> log", "nothing is executed"),
        ("python finetune.py --a 'x", "not a shell command"),
        ("python finetune.py --a 1 --a 2", "given twice"),
        ("python finetune.py " + "x" * 70_000, "too many"),
    ],
)
def test_refusals(text: str, reason: str) -> None:
    with pytest.raises(ConfigError, match=reason):
        parse_command(text, "run.sh")
