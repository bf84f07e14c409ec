"""Is a merged model sound? It loads as stock transformers does, generates, is finite, and no adapter is left in it."""

from dataclasses import dataclass
from pathlib import Path

import torch

from loratory.adapter.certificate import FILE_NAME, read_certificate
from loratory.adapter.findings import Findings
from loratory.adapter.shards import DTYPES, ShardReader
from loratory.config import ModelConfig
from loratory.errors import LoratoryError
from loratory.model.identity import hash_files, weight_files
from loratory.model.load import LoadedModel, load_model
from loratory.model.source import locate_model, snapshot_folder

ADAPTER_MARKS = (".lora_", "lora_A", "lora_B", ".base_layer.", ".modules_to_save.", "base_model.model.")
PROMPT = "The capital of France is"
MAX_NEW_TOKENS = 16


@dataclass(frozen=True, slots=True, eq=False)
class ModelValidation:
    """What was found about a model.

    Attributes:
        findings: In the order of looking.
        sample: What it generated, or None.
        num_parameters: Numbers in its files.
        num_bytes: Bytes of its weights.
    """

    findings: Findings
    sample: str | None
    num_parameters: int
    num_bytes: int


def validate_model(path: Path, base: str | None = None, *, trust_remote_code: bool = False) -> ModelValidation:
    """Look at a model folder; nothing is raised for what is wrong with it.

    Args:
        path: The folder.
        base: The base to compare its size with; default the one that its certificate names, if it is at hand.
        trust_remote_code: Run code from the model's own repository.
    """
    findings = Findings()
    num_parameters = num_bytes = 0
    sample = None
    with findings.collecting("files"):
        folder = snapshot_folder(locate_model(ModelConfig(model_name_or_path=str(path))))
        files = weight_files(folder)
        reader = ShardReader(file for file in files if file.suffix == ".safetensors")
        num_parameters, num_bytes = _size(reader)
        findings.add(
            "files", "fine", f"{len(reader.tensors)} tensors in {len(files)} files, {num_parameters:,} numbers"
        )
        _look_for_adapter(findings, reader)
        _look_at_numbers(findings, reader)
        _look_at_certificate(findings, folder)
        _look_at_size(findings, folder, base, (num_parameters, num_bytes))
    if not findings.items or findings.items[0].weight != "fault":
        with findings.collecting("loads"):
            section = ModelConfig(model_name_or_path=str(path))
            loaded = load_model(section, trust_remote_code=trust_remote_code)
            findings.add("loads", "fine", f"{type(loaded.model).__name__}, {loaded.model.dtype}".replace("torch.", ""))
            sample = _look_at_generation(findings, loaded)
            _look_at_template(findings, loaded)
    return ModelValidation(findings, sample, num_parameters, num_bytes)


def _size(reader: ShardReader) -> tuple[int, int]:
    sizes = [(torch.Size(tensor.shape).numel(), tensor.num_bytes) for tensor in reader.tensors.values()]
    return sum(size for size, _ in sizes), sum(size for _, size in sizes)


def _look_for_adapter(findings: Findings, reader: ShardReader) -> None:
    left = [name for name in reader.tensors if any(mark in name for mark in ADAPTER_MARKS)]
    if left:
        findings.add("adapter", "fault", f"{len(left)} tensors of an adapter are left in it (first: {left[0]})")
    else:
        findings.add("adapter", "fine", "no adapter layers remain")


def _look_at_numbers(findings: Findings, reader: ShardReader) -> None:
    broken = [name for name, tensor in reader.tensors.items() if tensor.is_float and not _is_finite(reader, name)]
    if broken:
        findings.add("values", "fault", f"{len(broken)} tensors hold numbers that are not finite (first: {broken[0]})")
    else:
        findings.add("values", "fine", "all numbers are finite")


def _is_finite(reader: ShardReader, name: str) -> bool:
    dtype = DTYPES[reader.tensors[name].code]
    # The sum of numbers times zero is zero, unless one of them is not finite.
    return all(bool((torch.frombuffer(bytearray(chunk), dtype=dtype) * 0).sum() == 0) for chunk in reader.raw(name))


def _look_at_certificate(findings: Findings, folder: Path) -> None:
    found = read_certificate(folder)
    if found is None:
        findings.add("certificate", "doubt", f"no {FILE_NAME}: nothing tells how near it is to its adapter on the base")
    elif hash_files(weight_files(folder)) != found.merged_identity:
        findings.add("certificate", "fault", "the weights were changed after the certificate was written")
    else:
        change = found.measured.perplexity_change
        text = f"mean KL {found.measured.mean_kl_nats:.2g} nats, same top token {found.measured.top1_agreement:.1%}"
        text += "" if change is None else f", perplexity {change:+.2%}"
        findings.add("certificate", "fine", f"{text} against the adapter on its base")


def _look_at_size(findings: Findings, folder: Path, base: str | None, size: tuple[int, int]) -> None:
    certificate = read_certificate(folder)
    named = base or (certificate.base_source if certificate else None)
    if named is None:
        findings.add("size", "doubt", "not compared: no base was given and no certificate names one")
        return
    try:
        found = snapshot_folder(locate_model(ModelConfig(model_name_or_path=named)))
        files = [file for file in weight_files(found) if file.suffix == ".safetensors"]
    except (LoratoryError, AssertionError):
        findings.add("size", "doubt", f"not compared: the base {named} is not at hand")
        return
    if not files:
        findings.add("size", "doubt", f"not compared: the base {named} is not in safetensors")
        return
    numbers, num_bytes = _size(ShardReader(files))
    if numbers == size[0]:
        text = f"as many values as the base ({numbers:,}), {size[1] / 2**20:.1f} MiB (base {num_bytes / 2**20:.1f})"
        findings.add("size", "fine", text)
    else:
        findings.add(
            "size", "doubt", f"{size[0]:,} numbers, the base {numbers:,}: embeddings were separated, or pruned"
        )


def _look_at_generation(findings: Findings, loaded: LoadedModel) -> str:
    ids = loaded.tokenizer(PROMPT, return_tensors="pt").to(loaded.model.device)
    with torch.inference_mode():
        logits = loaded.model(input_ids=ids["input_ids"]).logits
        made = loaded.model.generate(
            input_ids=ids["input_ids"],
            attention_mask=ids["attention_mask"],
            max_new_tokens=MAX_NEW_TOKENS,
            do_sample=False,
            pad_token_id=loaded.tokenizer.pad_token_id,
        )
    text: str = loaded.tokenizer.decode(made[0, ids["input_ids"].shape[1] :], skip_special_tokens=True)
    if not torch.isfinite(logits).all():
        findings.add("generates", "fault", "its logits are not finite numbers")
    elif len(set(made[0, ids["input_ids"].shape[1] :].tolist())) < 2 and made.shape[1] - ids["input_ids"].shape[1] > 4:
        findings.add("generates", "doubt", f"it repeats one token: {text[:40]!r}")
    else:
        findings.add("generates", "fine", f"{PROMPT!r} goes on {text!r}")
    return text


def _look_at_template(findings: Findings, loaded: LoadedModel) -> None:
    """The template law: the prompt that is generated from is how the finished conversation begins, and it stops."""
    tokenizer = loaded.tokenizer
    if not getattr(tokenizer, "chat_template", None):
        findings.add("template", "fine", "no chat template: a model for plain text")
        return
    asked = [{"role": "user", "content": "Hello"}]
    answered = [*asked, {"role": "assistant", "content": "Hi"}]
    prompt = str(tokenizer.apply_chat_template(asked, tokenize=False, add_generation_prompt=True))
    whole = str(tokenizer.apply_chat_template(answered, tokenize=False))
    if not whole.startswith(prompt):
        findings.add("template", "doubt", "the conversation does not begin with its generation prompt")
        return
    end = tokenizer(whole.removeprefix(prompt + "Hi"), add_special_tokens=False)["input_ids"]
    generation = loaded.model.generation_config
    stops = generation.eos_token_id if generation is not None else None
    stops = [] if stops is None else stops if isinstance(stops, list) else [stops]
    if end and end[0] not in stops:
        token = tokenizer.convert_ids_to_tokens(end[0])
        findings.add("template", "doubt", f"an answer ends with {token!r}, but generation stops only at {stops}")
    else:
        findings.add("template", "fine", f"prompt and conversation agree; generation stops at {stops}")
