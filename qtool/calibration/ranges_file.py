"""The ranges file: what calibration observed, readable, diffable, exact to the bit, and mergeable."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from qtool.calibration.histogram import BINS
from qtool.calibration.ranges import Ranges, merged
from qtool.errors import UsageError, counted
from qtool.serialize.json_format import JsonFormat

SCHEMA = "qtool.ranges/2"
_MODULUS = 1 << 256


@dataclass(frozen=True)
class Calibration:
    """Ranges, and the model and samples that they are of.

    Args:
        model_sha256: of the model file.
        samples: the number of samples.
        samples_digest: the sum of the samples' digests (`digest_of`) modulo 2**256: the same in any order,
            and the sum of those of shards.
        ranges: of each value that was observed.
    """

    model_sha256: str
    samples: int
    samples_digest: int
    ranges: Ranges = field(default_factory=dict)

    def __repr__(self) -> str:
        return (
            f"<Calibration of {counted(len(self.ranges), 'tensor')} over {counted(self.samples, 'sample')}>"
        )

    def merge(self, other: Calibration) -> Calibration:
        """Return the calibration over the samples of both, in any order.

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


def check_ranges(ranges: Ranges) -> None:
    """Check the values of ranges, beyond their types.

    Raises:
        ValueError: a range has no elements, is upside down, or has an impossible histogram.
    """
    for name, observed in ranges.items():
        if not observed.lo <= observed.hi or observed.count < 1 or observed.samples < 1:
            raise ValueError(
                f"'{name}' has an impossible range: {observed.lo}..{observed.hi} of {observed.count}"
            )
        counts = observed.histogram.counts if observed.histogram else np.zeros(0)
        if (counts < 0).any() or counts.ndim != 1 or counts.size > 2 * BINS:
            raise ValueError(f"'{name}' has an impossible histogram")


RANGES = JsonFormat(
    Calibration,
    SCHEMA,
    "ranges file",
    hint="qtool calibrate makes one",
    largest=1 << 32,
    levels=2,
    check=lambda calibration: check_ranges(calibration.ranges),
)


def to_json(calibration: Calibration) -> str:
    """Return the file's text, a tensor a line by name; the same calibration gives the same text."""
    return RANGES.to_json(replace(calibration, ranges=dict(sorted(calibration.ranges.items()))))


def read(path: Path) -> Calibration:
    """Read a calibration from its file.

    Raises:
        UsageError: it can't be read, or is damaged.
    """
    return RANGES.read(path)
