"""BLEU of token ids and the expected BLEU of a decoder's output distribution."""
