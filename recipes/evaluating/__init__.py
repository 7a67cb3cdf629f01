"""Scores of text with sacrebleu, statistics of outputs, and the command ``evaluate``."""
