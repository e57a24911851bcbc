"""One thread: two that wait for each other on a busy machine are fifty times slower."""

import torch

torch.set_num_threads(1)
