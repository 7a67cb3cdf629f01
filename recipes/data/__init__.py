"""Text of a recipe: downloaded, read out of its archives, cleaned, written as PREFIX.LANG."""
