"""Two threads unless the caller asks otherwise, here and in every process that a test starts."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "2")  # before torch is first imported
os.environ.setdefault("GOMP_SPINCOUNT", "10000")  # as in `omnidistill.cli`

import torch

torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
