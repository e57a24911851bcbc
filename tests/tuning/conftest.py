"""As for the tests of the kernels: read when Triton is imported, and without a GPU they run on the CPU."""

import os

import torch

torch.set_num_threads(1)
if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")
