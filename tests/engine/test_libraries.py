"""What the early import leaves behind: everything works as after a plain one, only the compiler is not there."""

import subprocess
import sys

SCRIPT = """
import gc, os, sys, warnings
warnings.simplefilter("ignore")
from loratory.engine.libraries import load_libraries
load_libraries()
assert {"peft", "bitsandbytes"} <= set(sys.modules)
assert "torch._inductor.compile_fx" not in sys.modules
assert "TORCHDYNAMO_DISABLE" not in os.environ
assert gc.isenabled() and gc.get_freeze_count() > 100_000

import bitsandbytes, peft, torch
packed = torch.nn.ModuleDict({"up": bitsandbytes.nn.Linear4bit(64, 64, quant_type="nf4")}).to("cpu")
packed.is_loaded_in_4bit = True
adapted = peft.inject_adapter_in_model(peft.LoraConfig(r=2, target_modules=["up"]), packed)
assert isinstance(adapted["up"], peft.tuners.lora.Linear4bit)
optimizer = bitsandbytes.optim.AdamW8bit([p for p in adapted.parameters() if p.requires_grad], lr=0.1)
adapted["up"](torch.randn(4, 64)).square().sum().backward()
optimizer.step()
assert adapted["up"].lora_B["default"].weight.abs().sum() > 0

compiled = torch.compile(lambda x: x + 1, backend="eager")
assert compiled(torch.ones(1)) == 2
assert torch._dynamo.utils.counters["frames"]["ok"] == 1
print("sound")
"""


def test_what_was_loaded_is_whole_and_compiles_when_asked() -> None:
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "sound\n"), done.stderr
