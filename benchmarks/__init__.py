"""Measurements: ``python -m benchmarks``, and ``python -m benchmarks.toy_expected_bleu``."""

import logging
import warnings

# Importing fairseq reports every optional package that is missing, in each child process again,
# and its use of Hydra is announced as outdated at each configuration.
for name in ("fairseq", "hydra"):
    logging.getLogger(name).setLevel(logging.WARNING)
warnings.filterwarnings("ignore", message="(?s).*hydra")
warnings.filterwarnings("ignore", module="hydra|fairseq")
