"""Fixtures, options and choices of all tests."""

from __future__ import annotations

import os
from typing import Any

import hypothesis
import onnxruntime as ort
import pytest

from qtool.runtime import providers
from tests.exact import exact
from tests.tiers import be_nightly, nightly

# "Convert u8 x s8 to u8 x u8": exact on a CPU without VNNI, and slower (onnxruntime_session_options_config_keys.h).
_PRECISE = "session.x64quantprecision"


# A busy machine draws examples slowly: that is no fault of a test.
hypothesis.settings.register_profile(
    "busy", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("busy")

# Heavy libraries have environments of their own: `make test-extras`, `make test-torch`.
collect_ignore = [] if os.environ.get("HEAVY_TESTS") else ["extras", "torch"]


class OneThread(ort.InferenceSession):
    """A session of one thread by default: tests share their cores, and idle threads of the runtime spin."""

    def __init__(
        self, model: Any, sess_options: ort.SessionOptions | None = None, *others: Any, **more: Any
    ) -> None:
        options = sess_options or ort.SessionOptions()
        options.intra_op_num_threads = options.intra_op_num_threads or 1
        super().__init__(model, options, *others, **more)


ort.InferenceSession = OneThread


class ExactSession:
    """A session whose int8 products do not saturate, on a CPU without VNNI.

    The runtime's own switch for that breaks some DequantizeLinears of weights (seen in 1.32); a model that it
    breaks is run without it.
    """

    def __init__(self, model: Any, options: ort.SessionOptions, **providers: Any) -> None:
        def opened(precise: str) -> Any:
            options.add_session_config_entry(_PRECISE, precise)
            return OneThread(model, options, **providers)

        self._opened = opened
        try:
            self._inner = opened("1")
        except Exception:
            self._inner = opened("0")

    def run(self, *arguments: Any) -> Any:
        try:
            return self._inner.run(*arguments)
        except Exception:
            self._inner = self._opened("0")
            return self._inner.run(*arguments)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)


class _Runtime:
    """onnxruntime, with sessions like that."""

    InferenceSession = ExactSession

    def __getattr__(self, name: str) -> Any:
        return getattr(ort, name)


@pytest.fixture(autouse=True, scope="session")
def exact_int8_products() -> None:
    """Judge the written model, not the machine: without VNNI int8 products saturate by default."""
    if not exact():
        providers.ort = _Runtime()  # type: ignore[assignment]


# Cases whose integer operators the switch does not reach: those that run unoptimized, DynamicQuantizeLSTM, and
# products that share a weight. They are run where the CPU has VNNI.
_SATURATING = {
    "test_idioms.py::test_stays_near_fp32": (
        "gemm-trans-a-generic-dynamic gemm-any-c matmul-two-activations mlp-with-a-float-head "
        "lstm- gru- if-cpu-dynamic if-generic-dynamic"
    ),
    "test_fed_weights.py::test_each_operator": "gemm-bias-alone gemm-all-but-w",
    "test_outlier_columns.py::test_it_recovers_the_loss_by_outliers": "dynamic-",
    "rewrite/test_simulated.py": "shared-weights-",
    "sweep/test_zoo.py": "computed-constant-output-static-generic",  # the switch spoils it (onnxruntime 1.31)
    "rewrite/test_zoo.py": "lstm shared-weights if-weights-generic",
    "test_modes.py::test_allowed_forms_run_near_fp32[static-cpu": "lstm",
    "test_modes.py::test_allowed_forms_run_near_fp32[static-generic": ("qoperator-cnn qoperator-transformer"),
    "test_modes.py::test_allowed_forms_run_near_fp32[dynamic": (
        "dynamic-cpu--lstm dynamic-generic--transformer"
    ),
}


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--nightly", action="store_true", help="run everything, not only what `make test` runs")


def pytest_configure(config: pytest.Config) -> None:
    if config.getoption("nightly"):
        be_nightly()


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if not nightly():
        late = [item for item in items if item.get_closest_marker("nightly")]
        config.hook.pytest_deselected(items=late)
        items[:] = [item for item in items if not item.get_closest_marker("nightly")]
    if exact():
        return
    skip = pytest.mark.skip(reason="int8 kernels saturate on this CPU: it has no VNNI")
    for item in items:
        cases = " ".join(c for name, c in _SATURATING.items() if name in item.nodeid)
        if any(case in item.nodeid for case in cases.split()):
            item.add_marker(skip)
