"""Union-find over value names: what must share one scale."""

from __future__ import annotations

from collections.abc import Sequence


class Groups:
    """Sets of names that grow together."""

    def __init__(self) -> None:
        self._parent: dict[str, str] = {}

    def join(self, names: Sequence[str]) -> None:
        """Make one group of all the names."""
        for name in names[1:]:
            self._parent[self.of(name)] = self.of(names[0])

    def of(self, name: str) -> str:
        """The name of a name's group."""
        root = name
        while (above := self._parent.get(root, root)) != root:
            root = above
        while name != root:
            self._parent[name], name = root, self._parent.get(name, name)
        return root
