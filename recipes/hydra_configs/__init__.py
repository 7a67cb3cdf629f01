"""A recipe's trainings as configurations of fairseq-hydra-train."""
