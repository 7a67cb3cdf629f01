"""Measurements: each module is a command, ``python -m benchmarks.<name>``."""

import logging
import warnings

# Importing fairseq reports every optional package that is missing, in each child process again,
# and its use of Hydra is announced as outdated at each configuration.
for name in ("fairseq", "hydra"):
    logging.getLogger(name).setLevel(logging.WARNING)
warnings.filterwarnings("ignore", module=r"hydra|fairseq|benchmarks\.training_step")
