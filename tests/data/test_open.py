"""What the user named becomes a source, or an error that says why not."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from qtool.data.memory import InMemory, Spooled
from qtool.data.npz import NpzFiles
from qtool.data.open import open_source
from qtool.errors import DataError
from tests.graphs import samples, write_samples


def test_a_path_is_a_directory_of_npz_however_it_is_spelt(tmp_path: Path) -> None:
    folder = write_samples(tmp_path / "d", samples(2, x=(1,)))
    for spelling in (folder, str(folder)):
        source = open_source(spelling)
        assert isinstance(source, NpzFiles)
        assert source.name == str(folder)


@pytest.mark.parametrize("kind", [list, tuple])
def test_a_collection_stays_in_memory(kind: type) -> None:
    source = open_source(kind(samples(3, x=(1,))))
    assert isinstance(source, InMemory)
    assert len(source) == 3


def test_what_can_be_read_only_once_is_spooled() -> None:
    source = open_source(iter(samples(3, x=(1,))))
    assert isinstance(source, Spooled)
    assert len(source) == 3


def test_a_loader_without_contains_can_be_read_again() -> None:
    class Loader:
        def __iter__(self) -> Iterator[dict[str, np.ndarray]]:
            return iter(samples(3, x=(1,)))

        def __len__(self) -> int:
            return 3

    source = open_source(Loader())
    assert [len(list(source.read())) for _ in range(2)] == [3, 3]


@pytest.mark.parametrize("data", [[], (), iter([]), {}], ids=["list", "tuple", "iterator", "dict"])
def test_nothing_is_refused(data: object) -> None:
    with pytest.raises(DataError, match="empty"):
        open_source(data)


@pytest.mark.parametrize("data", [None, 5, object()], ids=["None", "number", "object"])
def test_no_known_kind_is_refused(data: object) -> None:
    with pytest.raises(DataError):
        open_source(data)


@pytest.mark.parametrize("data", [{"x": np.zeros(2)}, np.zeros((2, 3)), [np.zeros(2)], b"ab"], ids=type)
def test_samples_that_are_no_dicts_are_refused(data: object) -> None:
    with pytest.raises(DataError, match=r"sample 0 is a \w+") as caught:
        list(open_source(data).read())
    assert caught.value.exit_code == 4
    assert "dict" in caught.value.hint
