"""The errors a user of ``python -m recipes`` can run into; each prints as one clear message."""


class RecipeError(Exception):
    """Something the user can fix: a wrong key, a missing file, a failed command."""


class ConfigError(RecipeError):
    """The recipe file, or a ``--set`` option, is wrong."""


class CommandError(RecipeError):
    """A fairseq command ended with an error."""
