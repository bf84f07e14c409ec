"""How large a model is: on disk, in parameters, in memory while it answers, and in arithmetic."""

from collections.abc import Sequence
from pathlib import Path

from peft import PeftModel
from transformers import PreTrainedModel

from loratory.engine.memory_budget import used_bytes
from loratory.engine.peak_memory import PeakMemory
from loratory.errors import ResourceError
from loratory.evaluation.macs import count_macs
from loratory.evaluation.measure import Measure, exact
from loratory.evaluation.speed import Workload, fit_workload, random_prompts
from loratory.infer.generate import generate
from loratory.tree.eligibility import base_of


def size_measures(model: PreTrainedModel | PeftModel, files: Sequence[Path]) -> list[Measure]:
    """Parameters, bytes on disk and bytes in memory.

    Args:
        model: The model, with its adapter if it has one.
        files: Weight files of base and adapter.
    """
    tensors = {tensor.data_ptr(): tensor for tensor in [*model.parameters(), *model.buffers()]}.values()
    num_parameters = model.num_parameters()
    measures = [
        exact("parameters", num_parameters, "parameters", "weights of the model, tied ones once, adapter included"),
        exact(
            "size_on_disk",
            sum(path.stat().st_size for path in files),
            "bytes",
            f"weight files: {', '.join(path.name for path in files)}",
        ),
        exact(
            "size_in_memory",
            sum(tensor.numel() * tensor.element_size() for tensor in tensors),
            "bytes",
            "weights and buffers as loaded",
        ),
    ]
    if isinstance(model, PeftModel):
        of_base = base_of(model)
        own = sum(p.numel() for name, p in of_base.named_parameters() if "lora_" in name or "modules_to_save" in name)
        measures.insert(1, exact("adapter_parameters", own, "parameters", "weights that the adapter brings"))
    return measures


def macs_measure(model: PreTrainedModel | PeftModel, *, num_tokens: int) -> Measure:
    """Multiply-accumulates of one sequence of `num_tokens`.

    Raises:
        ModelError: They cannot be counted from this model's shapes.
    """
    words = "multiply-accumulates of a forward pass over one sequence, head at each position, attention over the square"
    return exact(f"macs@tokens={num_tokens}", count_macs(model, num_tokens=num_tokens).total, "MAC", words)


def peak_measures(model: PreTrainedModel | PeftModel, workload: Workload) -> list[Measure]:
    """Peak memory of one generation, and how much of it is beyond what the process held before.

    On a GPU this is torch's count of allocated bytes; on a CPU the resident set of the process, its libraries
    included, whose mark is set back before.

    Raises:
        ConfigError: Prompt and answer are longer than the model's context.
        ResourceError: The mark cannot be set back, and stood higher before.
    """
    prompts = random_prompts(model, fit_workload(model, workload))
    device = next(model.parameters()).device
    watch = PeakMemory(device)
    resting = used_bytes(device)
    generate(
        model,
        prompts,
        stop_token_ids=(),
        max_new_tokens=workload.new_tokens,
        batch_size=workload.batch_size,
    )
    peak = watch.read()
    if peak is None:
        raise ResourceError(
            "peak memory: not known, because this process has used more before and the system does not let the mark be "
            "set back (/proc/self/clear_refs). Measure it in a process of its own."
        )
    kind = "torch's allocated bytes" if device.type == "cuda" else "the process's resident set"
    what = f"highest mark of {kind} while one batch is answered"

    def measure(name: str, value: int, definition: str) -> Measure:
        return Measure(
            name=f"{name}@{workload.label}", on=f"batch {workload.batch_size}", value=value, unit="bytes", n=1,
            n_of="runs", low=None, high=None, interval=None, definition=definition,
        )  # fmt: skip

    return [
        measure("peak_memory", peak, what),
        measure("peak_memory_beyond_resting", max(peak - resting, 0), f"{what}, less the mark just before"),
    ]
