"""Quantize a model with NNCF's default settings, for nncf.py, which runs this in an environment with NNCF.

    python -P benchmarks/nncf_quantize.py model.onnx calib/ out.xml

NNCF reads the model with OpenVINO, its first backend, and calibrates on at most 300 samples, its default.
"""

from __future__ import annotations

import sys
from importlib import import_module
from pathlib import Path

SAMPLES = 300


def main(model: str, calib: str, out: str) -> None:
    sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]  # it would send an event
    numpy, openvino, nncf = (import_module(name) for name in ("numpy", "openvino", "nncf"))
    files = sorted(Path(calib).glob("*.npz"))[:SAMPLES]
    samples = [dict(numpy.load(file)) for file in files]
    result = nncf.quantize(openvino.Core().read_model(model), nncf.Dataset(samples), subset_size=len(samples))
    openvino.save_model(result, out, compress_to_fp16=False)


if __name__ == "__main__":
    main(*sys.argv[1:])
