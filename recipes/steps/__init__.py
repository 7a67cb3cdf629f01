"""The stages of a recipe, by what they work on: data, training, decoding."""
