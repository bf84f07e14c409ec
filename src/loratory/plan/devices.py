"""GPUs by name, with figures of their makers' data sheets, and how much of these training reaches."""

from collections.abc import Mapping
from dataclasses import dataclass

from loratory.engine.forecast.machine import Machine, PathPace, Rate
from loratory.errors import ConfigError, suggest

GIB = 2**30
_CONTEXT_BYTES = GIB // 2  # of CUDA's libraries in each process
# Share of the peak that large products reach in training; published runs lie between 0.3 and 0.6.
_REACHED = 0.5
_HALF_ROWS, _HALF_WIDTH = 256, 1024  # sizes at which a product reaches half of that
_LAUNCHES_PER_LAYER, _LAUNCH_S = 120, 5e-6  # forward and backward of a layer with an adapter
_TOUCHES, _ITEMSIZE = 4, 2  # each kept number is written and read this often


@dataclass(frozen=True, slots=True)
class Device:
    """A GPU.

    Attributes:
        name: For people.
        memory_gib: Of which a little less is free.
        half_tflops: Dense products of 16-bit numbers with sums in float32, 10^12 a second.
        float_tflops: The same in float32.
        gb_per_s: Memory bandwidth, 10^9 bytes.
        has_bfloat16: In hardware.
        source: Where the figures are from.
    """

    name: str
    memory_gib: int
    half_tflops: float
    float_tflops: float
    gb_per_s: float
    has_bfloat16: bool
    source: str

    @property
    def memory_bytes(self) -> int:
        """Bytes of memory."""
        return self.memory_gib * GIB

    def machine(self, *, is_half: bool = True) -> Machine:
        """Figures for the forecast of time: an estimate from the data sheet, right to about a factor of two.

        Args:
            is_half: It computes with 16-bit numbers.
        """
        reached = (self.half_tflops if is_half else self.float_tflops) * 1e12 * _REACHED
        gemm = tuple(
            Rate(rows, width, reached * rows / (rows + _HALF_ROWS) * width / (width + _HALF_WIDTH) * 1.25)
            for rows in (16, 128, 1024, 8192)
            for width in (256, 1024, 4096)
        )
        bandwidth = self.gb_per_s * 1e9 * 0.8
        pace = PathPace(
            _LAUNCHES_PER_LAYER * _LAUNCH_S, _TOUCHES * (_ITEMSIZE if is_half else 2 * _ITEMSIZE) / bandwidth
        )
        return Machine(
            name=self.name,
            fingerprint=self.name,
            process_bytes=_CONTEXT_BYTES,
            gemm=gemm,
            thin=tuple(Rate(rank, 1024, reached * min(0.2, rank / 256)) for rank in (8, 64)),
            attention_flops_per_s=reached * 0.4,
            bandwidth_bytes_per_s=bandwidth,
            paths={"fused": pace, "tree": pace, "padded": pace},
            step_s=5e-3,
            tensor_s=2e-6,
        )


DEVICES: Mapping[str, Device] = {
    "t4": Device("T4", 16, 65.0, 8.1, 320, False, "NVIDIA T4 datasheet"),
    "v100": Device("V100", 16, 125.0, 15.7, 900, False, "NVIDIA V100 datasheet, SXM2"),
    "a4000": Device("RTX A4000", 16, 76.7, 19.2, 448, True, "NVIDIA RTX A4000 datasheet (half of sparse)"),
    "3090": Device("RTX 3090", 24, 71.0, 35.6, 936, True, "NVIDIA Ampere GA102 whitepaper, appendix A"),
    "4090": Device("RTX 4090", 24, 165.2, 82.6, 1008, True, "NVIDIA Ada GPU architecture whitepaper, appendix A"),
    "l4": Device("L4", 24, 121.0, 30.3, 300, True, "NVIDIA L4 datasheet (half of sparse)"),
    "a10": Device("A10", 24, 125.0, 31.2, 600, True, "NVIDIA A10 datasheet"),
    "a100-40": Device("A100", 40, 312.0, 19.5, 1555, True, "NVIDIA A100 datasheet"),
    "a100": Device("A100", 80, 312.0, 19.5, 2039, True, "NVIDIA A100 datasheet, SXM"),
    "h100": Device("H100", 80, 989.4, 66.9, 3350, True, "NVIDIA H100 datasheet, SXM (half of sparse)"),
}
USUAL = ("a4000", "4090", "a100", "h100")


def device(name: str) -> Device:
    """The device of that name.

    Raises:
        ConfigError: It is not in the table.
    """
    key = name.strip().lower().removeprefix("rtx").strip(" -")
    if key not in DEVICES:
        raise ConfigError(
            f"--device: {name!r} is not in the table; known: {', '.join(DEVICES)}.{suggest(key, list(DEVICES))}"
        )
    return DEVICES[key]
