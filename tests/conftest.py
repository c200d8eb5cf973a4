"""What all tests share."""

from __future__ import annotations

import onnxruntime as ort
import pytest

from qtool import session
from tests.exact import exact


class ExactOptions(ort.SessionOptions):  # type: ignore[misc]
    """Session options that keep u8 x s8 kernels from saturating, at the price of speed."""

    def __init__(self) -> None:
        super().__init__()
        self.add_session_config_entry("session.x64quantprecision", "1")


@pytest.fixture(autouse=True, scope="session")
def exact_int8_products() -> None:
    """Judge the written model, not the machine: without VNNI int8 products saturate unless told otherwise."""
    if not exact():
        session.ort.SessionOptions = ExactOptions
