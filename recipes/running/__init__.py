"""A run of a recipe: its stages, where they write, what is up to date, what runs side by side."""
