"""What calibration saw, as a file: readable, diffable, exact to the bit, and mergeable.

    {"schema": "qtool.ranges/1", "version", "model_sha256", "samples", "samples_sha256",
     "tensors": {value: {"lo", "hi", "count", "masked", "log_sum", "log_count", "samples", "lo_sum", "hi_sum",
                         "histogram": {"exponent", "first", "counts": [int]} | null}}}

lo and hi are float32, whose shortest decimal restores them. log_sum is in units of 2**-20, lo_sum and
hi_sum in units of 2**-149 (integers beyond 2**53 are strings). samples_sha256 is the sum, modulo 2**256,
of the digests of all samples: the same in any order, and of shards it adds up.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from qtool.calibration.histogram import Histogram
from qtool.calibration.ranges import Range, Ranges, merged
from qtool.data.samples import Sample
from qtool.errors import DataError, UsageError, printable

SCHEMA = "qtool.ranges/1"
_MODULUS = 1 << 256
_LONGEST_NUMBER = 1 << 53


@dataclass(frozen=True)
class Calibration:
    """Ranges, and what they are of.

    Args:
        model_sha256: of the model file.
        samples: how many set them.
        samples_digest: the sum of the samples' digests (`digest_of`).
        ranges: of each value that was observed.
    """

    model_sha256: str
    samples: int
    samples_digest: int
    ranges: Ranges = field(default_factory=dict)

    def merge(self, other: Calibration) -> Calibration:
        """Both together, whatever the order.

        Raises:
            UsageError: they are of different models, or of different tensors.
        """
        if self.model_sha256 != other.model_sha256:
            raise UsageError(
                f"ranges of different models: sha256 {self.model_sha256[:12]} and {other.model_sha256[:12]}"
            )
        digest = (self.samples_digest + other.samples_digest) % _MODULUS
        ranges = merged(self.ranges, other.ranges)
        return Calibration(self.model_sha256, self.samples + other.samples, digest, ranges)


def digest_of(sample: Sample) -> int:
    """A number that stands for a sample's inputs, not for its name."""
    digest = hashlib.sha256()
    for name, held in sorted(sample.inputs.items()):
        array = np.ascontiguousarray(np.asarray(held))
        digest.update(f"{name}\0{array.dtype.str}\0{array.shape}\0".encode())
        digest.update(array.tobytes())
    return int.from_bytes(digest.digest(), "big")


def to_json(calibration: Calibration, version: str) -> str:
    """The file's text, a tensor a line; the same calibration gives the same text."""
    head = {
        "schema": SCHEMA,
        "version": version,
        "model_sha256": calibration.model_sha256,
        "samples": calibration.samples,
        "samples_sha256": f"{calibration.samples_digest:064x}",
    }
    lines = [f"  {json.dumps(key)}: {json.dumps(value)}" for key, value in head.items()]
    tensors = [
        f"    {json.dumps(name)}: {json.dumps(seen)}"
        for name, seen in ranges_to_document(calibration.ranges).items()
    ]
    return (
        ",\n".join(["{\n" + lines[0], *lines[1:]])
        + ',\n  "tensors": {\n'
        + ",\n".join(tensors)
        + "\n  }\n}\n"
    )


def from_json(text: str, name: str) -> Calibration:
    """A calibration from its text.

    Raises:
        DataError: not such a file, damaged, or of another version.
    """
    try:
        document = json.loads(text)
        if not isinstance(document, dict) or document.get("schema") != SCHEMA:
            raise DataError(
                f"{name}: not a ranges file of this version ({SCHEMA})", "qtool calibrate makes one"
            )
        ranges = ranges_from_document(document["tensors"])
        return Calibration(
            str(document["model_sha256"]),
            int(document["samples"]),
            int(document["samples_sha256"], 16) % _MODULUS,
            ranges,
        )
    except (ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError) as error:
        raise DataError(f"{name}: not a whole ranges file: {printable(str(error), 120)}") from error


def ranges_to_document(ranges: Ranges) -> dict[str, dict[str, Any]]:
    """Ranges as plain data, by their names."""
    return {name: _range_to_json(seen) for name, seen in sorted(ranges.items())}


def ranges_from_document(document: Mapping[str, Any]) -> Ranges:
    """Ranges from plain data.

    Raises:
        ValueError, TypeError, KeyError, AttributeError, OverflowError: they are no such thing.
    """
    return {str(name): _range_from_json(seen) for name, seen in document.items()}


def _range_to_json(seen: Range) -> dict[str, Any]:
    document: dict[str, Any] = {
        key: _number(getattr(seen, key))
        for key in ("lo", "hi", "count", "masked", "log_sum", "log_count", "samples", "lo_sum", "hi_sum")
    }
    histogram = seen.histogram
    document["histogram"] = histogram and {
        "exponent": histogram.exponent,
        "first": histogram.first,
        "counts": histogram.counts.tolist(),
    }
    return document


def _number(value: float) -> float | str:
    return str(value) if isinstance(value, int) and abs(value) > _LONGEST_NUMBER else value


def _range_from_json(document: Mapping[str, Any]) -> Range:
    held = document["histogram"]
    histogram = None
    if held is not None:
        counts = np.array([int(n) for n in held["counts"]], np.int64)
        if (counts < 0).any() or counts.size > 2 * (1 << 11):
            raise ValueError("a histogram that can't be")
        histogram = Histogram(int(held["exponent"]), int(held["first"]), counts)
    lo, hi = float(document["lo"]), float(document["hi"])
    names = ("count", "masked", "log_sum", "log_count", "samples", "lo_sum", "hi_sum")
    count, masked, log_sum, log_count, samples, lo_sum, hi_sum = (int(document[name]) for name in names)
    if not lo <= hi or count < 1 or samples < 1:
        raise ValueError(f"a range that can't be: {lo}..{hi}")
    return Range(lo, hi, count, masked, log_sum, log_count, samples, lo_sum, hi_sum, histogram)


def read(path: Path) -> Calibration:
    """A calibration from its file.

    Raises:
        DataError: it can't be read, or is no such file.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:  # ValueError: no UTF-8; a null character in the name
        reason = getattr(error, "strerror", None) or error
        raise DataError(f"ranges '{path}' can't be read: {reason}") from error
    return from_json(text, str(path))
