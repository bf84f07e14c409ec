"""Which names a pickled model may mention, and what calling each of them stands for.

Refusing the rest is not what makes the reader safe (nothing is called anyway); it is what makes a file that is more
than a model visible, with the name and its offset.
"""

import re

from loratory.interop.pickled.inert import STORAGE_KINDS

# Functions and types that torch's and Python's own pickling writes; the interpreter knows each by name.
REBUILDERS = frozenset(
    {
        "torch._utils._rebuild_tensor_v2",
        "torch._utils._rebuild_parameter",
        "torch._utils._rebuild_parameter_with_state",
        "torch._tensor._rebuild_from_type_v2",
    }
)
CONTAINERS = frozenset(
    {"collections.OrderedDict", "__builtin__.set", "builtins.set", "__builtin__.frozenset", "builtins.frozenset"}
)
ENCODE = "_codecs.encode"
INERT_NAMES = frozenset(
    {
        "torch.Tensor",
        "torch.nn.parameter.Parameter",
        "torch.nn.parameter.Buffer",
        "torch.device",
        "torch.Size",
        "functools.partial",
        "torch._C._nn.gelu",
        "torch.nn.functional.silu",
        "torch.nn.functional.gelu",
        *(f"torch.{kind}" for kind in STORAGE_KINDS),
        *(f"torch.cuda.{kind}" for kind in STORAGE_KINDS),
        *(f"torch.{dtype}" for dtype in ("float16", "bfloat16", "float32", "float64")),
    }
)

# Modules whose classes are kept as inert objects. No module whose functions do work when called for real.
INERT_MODULES = re.compile(
    r"torch\.nn\.modules\.\w+"
    r"|transformers\.(models(\.\w+)+|activations|generation\.\w+|configuration_utils|modeling_rope_utils"
    r"|tokenization_\w+|modeling_layers|modeling_utils|pytorch_utils|utils\.quantization_config)"
    r"|LLMPruner\.models\.hf_llama\.\w+"
    r"|tokenizers(\.(models|normalizers|pre_tokenizers|decoders|processors))?"
    r"|accelerate\.hooks"
)
CLASS_LIKE = re.compile(r"_?[A-Za-z]\w*")


def is_allowed(module: str, attribute: str) -> bool:
    """Whether a pickled model may mention this name."""
    dotted = f"{module}.{attribute}"
    if dotted in REBUILDERS or dotted in CONTAINERS or dotted == ENCODE or dotted in INERT_NAMES:
        return True
    return INERT_MODULES.fullmatch(module) is not None and CLASS_LIKE.fullmatch(attribute) is not None
