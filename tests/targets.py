"""The targets that models of all kinds go through in tests: onnxruntime on the CPUs of CI, and no runtime.

The others build on these rows, and have tests of their own.
"""

from __future__ import annotations

COMMON = ["cpu", "cpu-avx2", "generic"]
