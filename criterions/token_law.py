"""The former name of :mod:`criterions.token_categorical`."""

from criterions.token_categorical import TokenCategorical as TokenLaw

__all__ = ["TokenLaw"]
