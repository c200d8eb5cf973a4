"""Run a model of `--target arm64` on a simulated ARM CPU, and print its SQNR against FP32 there.

    qtool quantize sample_models/cnn/model.onnx -o int8.onnx --calib sample_models/cnn/calib --target arm64
    python benchmarks/arm64.py sample_models/cnn/model.onnx int8.onnx sample_models/cnn/eval

On Debian 12, x86-64, without root: the first run fills build/arm64 by apt and pip with qemu-user-static, the
arm64 packages of Python 3.11, and onnxruntime for aarch64. onnxruntime 1.32.0 ends in a segmentation fault
when it is imported under qemu 7.2; 1.20.1 runs. A simulator tells the outputs, not the speed.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

FOLDER = Path(__file__).resolve().parent.parent / "build" / "arm64"
DEBS = """libc6 libgcc-s1 libstdc++6 zlib1g libexpat1 libpython3.11-minimal libpython3.11-stdlib
    python3.11-minimal libssl3 libffi8 libbz2-1.0 liblzma5 libuuid1""".split()
WHEELS = ("onnxruntime==1.20.1", "numpy", "flatbuffers", "protobuf", "packaging")
PLATFORMS = ("manylinux_2_28_aarch64", "manylinux_2_27_aarch64", "manylinux2014_aarch64")
# Without dot products, and with them.
CPUS = ("cortex-a53", "cortex-a76")
SAMPLES = 32


def run(*command: object, cwd: Path = FOLDER) -> None:
    """Run a command of the installation."""
    subprocess.run([str(part) for part in command], check=True, cwd=cwd, stdout=subprocess.DEVNULL)


def install() -> None:
    """Fill the folder where it is not complete."""
    if (FOLDER / "ready").exists():
        return
    for name in ("lists/partial", "native", "debs", "root", "wheels", "site"):
        (FOLDER / name).mkdir(parents=True, exist_ok=True)
    options = {
        "APT::Architecture": "arm64",
        "APT::Architectures": "arm64",
        "Dir::State::Lists": FOLDER / "lists",
    }
    arm = [f"-o{key}={value}" for key, value in options.items()]
    run("apt-get", *arm, "update")
    run("apt-get", *arm, "download", *DEBS, cwd=FOLDER / "debs")
    run("apt-get", "download", "qemu-user-static", cwd=FOLDER / "native")
    for deb in FOLDER.glob("*/*.deb"):
        run("dpkg", "-x", deb, FOLDER / ("root" if deb.parent.name == "debs" else "native"))
    wanted = [f"--platform={platform}" for platform in PLATFORMS]
    target = ("--target=site", "--no-deps", "--only-binary=:all:", "--python-version=3.11")
    run(sys.executable, "-m", "pip", "install", "--quiet", *target, *wanted, *WHEELS)
    (FOLDER / "ready").touch()


def compare(fp32: Path, quantized: Path, samples: Path) -> None:
    """Print a row of the table; it runs in the simulated Python."""
    import numpy as np
    import onnxruntime as ort

    feeds = [dict(np.load(file)) for file in sorted(samples.glob("*.npz"))[:SAMPLES]]
    sessions = [ort.InferenceSession(str(m), providers=["CPUExecutionProvider"]) for m in (fp32, quantized)]
    a, b = (np.concatenate([s.run(None, feed)[0] for feed in feeds]).astype(np.float64) for s in sessions)
    decibels = 10 * np.log10(np.square(a).sum() / np.square(a - b).sum())
    agreed = (a.argmax(-1) == b.argmax(-1)).mean()
    print(f"{ort.__version__} | {decibels:.1f} | {agreed:.1%} |", flush=True)


def main() -> None:
    """Print a row for each simulated CPU."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("fp32", type=Path)
    parser.add_argument("quantized", type=Path)
    parser.add_argument("samples", type=Path)
    parser.add_argument("--simulated", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    files = [path.resolve() for path in (args.fp32, args.quantized, args.samples)]
    if args.simulated:
        compare(*files)
        return
    install()
    print("| CPU | onnxruntime | SQNR dB | top-1 agrees |", "|---|---|---|---|", sep="\n", flush=True)
    qemu, python = FOLDER / "native/usr/bin/qemu-aarch64-static", FOLDER / "root/usr/bin/python3.11"
    for cpu in CPUS:
        print(f"| {cpu} | ", end="", flush=True)
        command = [qemu, "-cpu", cpu, "-L", FOLDER / "root", python, "-S", Path(__file__).resolve()]
        subprocess.run(
            [*command, *files, "--simulated"], check=True, env={"PYTHONPATH": str(FOLDER / "site")}
        )


if __name__ == "__main__":
    main()
