"""Models for ``fairseq-train --arch NAME``; importing a module registers it."""
