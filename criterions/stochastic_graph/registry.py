"""The former place of :mod:`criterions.registry`."""

from criterions.registry import Registry

__all__ = ["Registry"]
