"""What tests can ask of the version of torch."""

import torch

TORCH_2 = int(torch.__version__.split(".")[0]) >= 2
HALF = (torch.float16,) if TORCH_2 else ()
"""On a CPU torch 1 lacks most operations of float16, and some of bfloat16."""
