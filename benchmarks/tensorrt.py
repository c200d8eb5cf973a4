"""Compare two models on a GPU, in onnxruntime's TensorRT provider or else its CUDA provider.

    python benchmarks/tensorrt.py model.onnx int8.onnx samples/

The first run makes an environment of its own (build/tensorrt: tensorrt and onnxruntime-gpu, several GB):
onnxruntime-gpu replaces onnxruntime. Samples are .npz files with a key for each input. Without a GPU it ends
with exit code 5. It was never run on one.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import time
from pathlib import Path
from typing import Any

from environments import environment

PACKAGES = ("onnxruntime-gpu", "tensorrt", "numpy")
FOLDER = Path(__file__).parent.parent / "build" / "tensorrt"
NO_GPU = 5
WARM, RUNS = 20, 100
# Float nodes in float16, as the target expects; engines are kept, since building one takes minutes.
OPTIONS = {"trt_fp16_enable": "1", "trt_int8_enable": "1", "trt_engine_cache_enable": "1"}


def opened(model: Path, provider: str) -> Any:
    """Return a session in TensorRT (with CUDA for what it lacks) or in CUDA alone."""
    import onnxruntime as ort

    cache = {"trt_engine_cache_path": str(FOLDER / "engines")}
    chosen: dict[str, list[Any]] = {
        "TensorrtExecutionProvider": [
            ("TensorrtExecutionProvider", OPTIONS | cache),
            "CUDAExecutionProvider",
        ],
        "CUDAExecutionProvider": ["CUDAExecutionProvider"],
    }
    session = ort.InferenceSession(model, providers=chosen[provider])
    if session.get_providers()[0] != provider:
        raise RuntimeError(f"{model}: {provider} does not start; onnxruntime fell back to another one")
    return session


def compare(models: list[Path], samples: Path) -> int:
    """Print the median time of an inference and the SQNR of each model against the first one."""
    import numpy as np
    import onnxruntime as ort

    ort.preload_dlls()
    able = [
        p
        for p in ("TensorrtExecutionProvider", "CUDAExecutionProvider")
        if p in ort.get_available_providers()
    ]
    feeds = [dict(np.load(file)) for file in sorted(samples.glob("*.npz"))]
    reference: list[Any] = []
    print("| model | provider | ms | SQNR dB |", "|---|---|---|---|", sep="\n")
    for model in models:
        session = opened(model, able[0])
        outputs = [session.run(None, feed) for feed in feeds]
        reference = reference or outputs
        pairs = [(a, b) for x, y in zip(reference, outputs, strict=True) for a, b in zip(x, y, strict=True)]
        signal = sum(float(np.sum(np.square(a, dtype=np.float64))) for a, _ in pairs)
        noise = sum(float(np.sum(np.square(a - b, dtype=np.float64))) for a, b in pairs)
        decibels = 10 * np.log10(signal / noise) if noise else float("inf")
        times = []
        for index in range(WARM + RUNS):
            start = time.perf_counter()
            session.run(None, feeds[index % len(feeds)])
            times.append(time.perf_counter() - start)
        print(f"| {model} | {able[0]} | {np.median(times[WARM:]) * 1e3:.3f} | {decibels:.1f} |", flush=True)
    return 0


def main() -> int:
    """Run in the environment, made at the first run."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("fp32", type=Path)
    parser.add_argument("quantized", type=Path)
    parser.add_argument("samples", type=Path)
    args = parser.parse_args()
    if shutil.which("nvidia-smi") is None:
        print("error: there is no NVIDIA GPU here (nvidia-smi is missing)", file=sys.stderr)
        return NO_GPU
    if Path(sys.prefix).resolve() != FOLDER.resolve():
        python = environment(FOLDER, PACKAGES)
        os.execv(python, [str(python), *sys.argv])
    return compare([args.fp32, args.quantized], args.samples)


if __name__ == "__main__":
    sys.exit(main())
