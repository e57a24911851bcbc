"""One thread: two that wait for each other on a busy machine are fifty times slower."""

import os

import torch

torch.set_num_threads(1)
# Read when the kernels are imported: without a GPU they run on the CPU.
if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")
