"""What a worker compiles ahead is what a launch asks the compiler's cache for: no launch compiles."""

from __future__ import annotations

import os
import subprocess
import sys

# Without the interpreter, which other tests run under, and with a driver of a GPU that is not here.
LAUNCHES = """
from triton.backends.compiler import GPUTarget
from triton.runtime import driver

class Absent:
    def get_current_target(self):
        return GPUTarget("cuda", 90, 32)
    def get_current_device(self):
        return 0
    def get_current_stream(self, device):
        return 0

driver.set_active(Absent())

from hwsearch.kernels.triton_attention import compiled, launch
from hwsearch.tuning import attention_runs
from hwsearch.tuning.attention import AttentionKernel
from hwsearch.tuning.attention_batch import make_batch

launched = set()

class Launched:
    def __init__(self, kernel):
        self.kernel = kernel
    def __getitem__(self, grid):
        return lambda *a, **options: launched.add(self.kernel.warmup(*a, grid=grid, **options).hash)

for name in [name for name in vars(launch) if name.endswith("_kernel")]:
    setattr(launch, name, Launched(getattr(launch, name)))

for name, length in (("attention_forward", 512), ("attention_backward", 32)):
    kernel = AttentionKernel(name, "bf16", 64, 4, None, (length, 7), length, "cuda", (9, 0))
    config = kernel.default()
    ahead = {compiled.binary((9, 0), part).hash for part in kernel._compiled_parts(config)}
    batch = make_batch(kernel.lengths, 4, 64, "bf16", None, length, "cpu")
    if name == "attention_forward":
        run, _ = attention_runs.forward(batch, kernel.tiles(config))
    else:
        run, _ = attention_runs.backward(batch, kernel.tiles(config), kernel.default_tiles)
    launched.clear()
    run()
    print(name, launched == ahead, len(ahead))
"""


def test_launches_find_what_was_compiled_ahead() -> None:
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    environment["PYTHONPATH"] = os.pathsep.join(sys.path)
    done = subprocess.run(
        [sys.executable, "-c", LAUNCHES], capture_output=True, text=True, env=environment, timeout=600
    )
    assert done.stdout.splitlines() == ["attention_forward True 2", "attention_backward True 1"], done.stderr
