"""Corpora that recipes make by themselves, so that they run without any download."""
