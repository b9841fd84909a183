"""Name to object tables."""

from collections.abc import Callable
from typing import Any, TypeVar, overload

from yacs.config import CfgNode

from dassl.utils.tools import check_availability

T = TypeVar("T")


class Registry:
    """A named table of classes or functions, filled by decoration.

    ``@REGISTRY.register()`` above a class, or ``REGISTRY.register(obj)``; the key is its ``__name__``.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._items: dict[str, Any] = {}

    @overload
    def register(self, obj: None = None, force: bool = False) -> Callable[[T], T]: ...

    @overload
    def register(self, obj: T, force: bool = False) -> None: ...

    def register(self, obj: Any = None, force: bool = False) -> Callable[[Any], Any] | None:
        """Add an object, or give a decorator that does; KeyError for a taken name without ``force``."""

        def add(target: Any) -> Any:
            name = target.__name__
            if name in self._items and not force:
                raise KeyError(
                    f"An object named {name!r} was already registered in the {self._name!r} registry "
                    f"(by {self._items[name].__module__}); rename one, or pass force=True"
                )
            self._items[name] = target
            return target

        if obj is None:
            return add
        add(obj)
        return None

    def get(self, name: str) -> Any:
        """The object of that name; KeyError if there is none."""
        if name not in self._items:
            raise KeyError(f"Object {name!r} does not exist in the {self._name!r} registry")
        return self._items[name]

    def registered_names(self) -> list[str]:
        """All names, in registration order."""
        return list(self._items)

    def build(self, name: str, cfg: CfgNode, **kwargs: Any) -> Any:
        """What the class or function ``name`` makes of the configuration.

        Raises:
            ValueError: if none of that name is registered.
        """
        check_availability(name, self.registered_names())
        if cfg.VERBOSE:
            print(f"Loading {self._name.lower()}: {name}")
        return self.get(name)(cfg, **kwargs)
