"""Metrics of detokenised text, tests of their differences, and statistics of outputs."""
