"""Experiments as data: one YAML file a recipe, run through fairseq's command line."""
