"""Encoder-decoder models whose attention to the source may sample positions."""
