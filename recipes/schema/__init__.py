"""What a recipe file may say: its keys as dataclasses, how they are read, and what is checked."""
