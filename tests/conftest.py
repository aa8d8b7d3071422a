"""One thread unless the caller asks otherwise, here and in every process that a test starts: `make test` has a worker
for each core."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is first imported
os.environ.setdefault("GOMP_SPINCOUNT", "10000")  # as in `omnidistill.cli`

import torch

torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
