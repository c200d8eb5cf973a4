"""The error of each quantized tensor and of each region, as plain data.

SQNR is in dB: 20 dB is an error of 10%, 30 dB of 3%, 40 dB of 1%.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Histogram:
    """The values of a tensor, before and after quantization, in bins of equal width from `low` to `high`."""

    low: float
    high: float
    before: NDArray[np.int64]
    after: NDArray[np.int64]


@dataclass(frozen=True)
class ChannelRanges:
    """The range of each channel.

    Args:
        axis: of the channels.
        low, high: [channels] float32.
        dead: channels that hold one value only.
        outliers: channels whose magnitude is many times that of the median channel.
    """

    axis: int
    low: NDArray[np.float32]
    high: NDArray[np.float32]
    dead: tuple[int, ...] = ()
    outliers: tuple[int, ...] = ()


@dataclass(frozen=True)
class TensorError:
    """One tensor that is quantized: an activation, or a weight.

    Args:
        name: in the prepared FP32 model.
        kind: 'activation' (its scale is in the file), 'runtime' (its scale is computed at every run),
            'weight' or 'bias'.
        qtype: the type of its integers.
        scale: the name of its scale in the quantized file; '' where there is no file.
        nodes: the consumers that read it quantized.
        region: the region that its error counts for.
        sqnr: local error: SQNR of the worst output with this tensor alone quantized.
        share: of the error at the outputs, if the errors of all tensors are added up.
        samples: the number of samples behind `sqnr` and `share`; 0: its part of its region's error.
        own_sqnr: SQNR of the tensor itself, rounded.
        accumulated: SQNR of the tensor in the quantized model, before it is rounded; nan for weights.
        rmse_steps: RMSE / scale. 0.289 is rounding alone; more means clipping, less means few values.
        clipped: share of the values beyond the grid.
        low, high: the range of its values.
        grid_low, grid_high: the range of the grid; nan where it changes from run to run.
        channels: None for a tensor without channels.
        histogram: None where no values were at hand.
        problem: a fault of its scale in plain words; '' for none.
    """

    name: str
    kind: str
    qtype: str
    scale: str
    nodes: tuple[str, ...]
    region: str
    sqnr: float
    share: float
    samples: int
    own_sqnr: float
    accumulated: float
    rmse_steps: float
    clipped: float
    low: float
    high: float
    grid_low: float
    grid_high: float
    channels: ChannelRanges | None = None
    histogram: Histogram | None = None
    problem: str = ""


@dataclass(frozen=True)
class TensorValues:
    """The values of a quantized tensor of a plan, before and after quantization; no output is looked at.

    Args:
        name: in the prepared FP32 model.
        kind: 'activation' or 'weight'.
        qtype: the type of its integers.
        region: the first node of the region that its error counts for.
        own_sqnr: SQNR of the tensor itself, rounded, in dB.
        rmse_steps: RMSE / scale. 0.289 is rounding alone; more means clipping, less means few values.
        clipped: share of the values beyond the grid.
        low, high: the range of its values.
        grid_low, grid_high: the range of the grid.
        before, after: counts of values in bins of equal width from `low` to `high`.
    """

    name: str
    kind: str
    qtype: str
    region: str
    own_sqnr: float
    rmse_steps: float
    clipped: float
    low: float
    high: float
    grid_low: float
    grid_high: float
    before: tuple[int, ...]
    after: tuple[int, ...]


@dataclass(frozen=True)
class RegionError:
    """Nodes that are quantized together.

    Args:
        name: of its first node.
        nodes: in graph order.
        ops: their op types.
        block: the part of the model that it belongs to, by the names of nodes; '' for none.
        depth: its place in graph order, from 0.
        sqnr: local error: SQNR of the worst output with this region alone quantized.
        share: of the error at the outputs.
        accumulated: SQNR of its result in the quantized model, against FP32.
        tensors: the names of the tensors whose error counts for it.
        samples: the number of samples behind `sqnr`.
        problem: that of one of its tensors.
    """

    name: str
    nodes: tuple[str, ...]
    ops: tuple[str, ...]
    block: str
    depth: int
    sqnr: float
    share: float
    accumulated: float
    tensors: tuple[str, ...]
    samples: int
    problem: str = ""


@dataclass(frozen=True)
class BlockError:
    """Regions with a common prefix of their names, and their share of the error at the outputs."""

    name: str
    regions: int
    share: float


@dataclass(frozen=True)
class OutputError:
    """The error of one output: of the model as it runs, and of the simulation that the shares are of.

    Args:
        sqnr: measured; nan where nothing but a simulation ran.
        simulated: in dB.
    """

    name: str
    sqnr: float
    simulated: float
