"""One thread: two that wait for each other on a busy machine are fifty times slower."""

import os

import torch

torch.set_num_threads(1)

# Triton reads it when it is first imported: without a GPU its kernels run in its interpreter.
if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")
