"""Classes of one kind by name: a new attack or defense is one file with a decorator."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar, Generic, Protocol, TypeVar

from advpt.errors import ConfigError, unknown_name


class Named(Protocol):
    """A class that a registry can hold."""

    name: ClassVar[str]


T = TypeVar("T", bound=Named)


class Registry(Generic[T]):
    """Maps names to classes; iteration gives the names in alphabetical order. ``kind``: a noun for messages."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self._items: dict[str, type[T]] = {}

    def add(self, cls: type[T]) -> type[T]:
        """Register a class under its ``name``, which must be free (ConfigError); a decorator."""
        if cls.name in self._items:
            raise ConfigError(f"two {self.kind}s are called {cls.name!r}; rename one")
        self._items[cls.name] = cls
        return cls

    def get(self, name: str) -> type[T]:
        """The class of this name, else a ConfigError with the nearest one."""
        if name not in self._items:
            raise ConfigError(unknown_name(self.kind, name, self._items))
        return self._items[name]

    def remove(self, name: str) -> None:
        """Forget a class, for instance to define it again in a notebook."""
        del self._items[self.get(name).name]

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(self._items))
