"""A function in plain Python that is made of a schema, line by line: what Avro's writer and reader have in common."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


class Code:
    """The lines of a function with the signature ``head``; ``fresh`` gives names that are not used yet."""

    def __init__(self, head: str) -> None:
        self._lines = [f"def made({head}):"]
        self._depth, self._names = 1, 0

    def add(self, *lines: str) -> None:
        """Statements in their order."""
        self._lines += [" " * self._depth + line for line in lines]

    def inside(self, head: str, more: Callable[[], None]) -> None:
        """What ``more`` adds belongs to the statement ``head``."""
        self.add(head)
        self._depth += 1
        more()
        self._depth -= 1

    def fresh(self) -> str:
        """A variable's name."""
        self._names += 1
        return f"v{self._names}"

    def compiled(self, names: dict[str, Any]) -> Any:
        """The function; ``names`` are its globals."""
        made: dict[str, Any] = {}
        exec("\n".join(self._lines), names, made)  # noqa: S102  # made of the schemas that ship with the product
        return made["made"]
