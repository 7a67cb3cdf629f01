"""Classes by name: what a command line or a configuration file can ask for."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Generic, TypeVar

T = TypeVar("T")


class Registry(Generic[T]):
    """Classes of one kind by name.

    Args:
        kind: what the classes are, for error messages (``"estimator"``).
        base: the class that every registered class must derive from.
    """

    def __init__(self, kind: str, base: type[T]) -> None:
        self.kind = kind
        self.base = base
        self._classes: dict[str, type[T]] = {}

    @property
    def names(self) -> tuple[str, ...]:
        """All registered names, in alphabetical order."""
        return tuple(sorted(self._classes))

    def register(self, name: str) -> Callable[[type[T]], type[T]]:
        """Class decorator: make the class available as ``name``.

        Raises:
            ValueError: the name is taken.
            TypeError: what is registered is not a class of the registry's base.
        """

        def add(cls: type[T]) -> type[T]:
            if not (isinstance(cls, type) and issubclass(cls, self.base)):
                raise TypeError(
                    f"{self.kind} {name!r} must be a subclass of {self.base.__name__}; got {cls!r}"
                )
            if name in self._classes:
                raise ValueError(
                    f"{self.kind} {name!r} is already registered as "
                    f"{self._classes[name].__name__}; choose another name"
                )
            self._classes[name] = cls
            return cls

        return add

    def get(self, name: str) -> type[T]:
        """The class registered as ``name``.

        Raises:
            ValueError: there is none; the message lists all names.
        """
        if name not in self._classes:
            raise ValueError(f"{self.kind} must be one of {', '.join(self.names)}; got {name!r}")
        return self._classes[name]

    def create(self, name: str, *args: Any, **kwargs: Any) -> T:
        """An instance of the class registered as ``name``."""
        return self.get(name)(*args, **kwargs)
