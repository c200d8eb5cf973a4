"""The modes of quantization: a row a mode."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

from qtool.tables.forms import Form
from qtool.tables.qtypes import (
    BINARY,
    FLOAT16,
    FLOAT32,
    INT2,
    INT4,
    INT8,
    TERNARY,
    UINT2,
    UINT4,
    UINT8,
    QType,
)


@dataclass(frozen=True)
class Mode:
    """One mode.

    Args:
        form: of its nodes; None: they compute in float, and only their weights are quantized.
        needs_ranges: activations have scales in the file, from samples or (--calib none) estimated.
        storage: the type in which the weights of all other nodes are kept in the file.
        options: the choices (plan/scheme.py) that mean something in this mode.
        io: the types that the model's float inputs and outputs may have.
        for_speed: whether to reject a result that is no faster than FP32, where it can be timed.
        floor_db: SQNR below which the report warns; weights of few bits have a floor of their own.
        storage_floor_db: a float weight is stored as int8 only if its own SQNR stays above this.
        storage_block: values that share a scale in a stored matrix, where they divide its axis; 0: a channel.
            Blocks limit the effect of activation outliers on the error of a weight.
        storage_min_elements: smaller weights are not stored as integers: they are not worth two nodes.
        least_typical_steps: sensitive consumers of an activation stay in float if its typical magnitude is
            below this count of quantization steps: outliers set its scale (plan/calibration_fallback.py).
    """

    name: str
    summary: str
    form: Form | None
    storage: QType
    options: frozenset[str]
    io: tuple[QType, ...] = (FLOAT32,)
    needs_ranges: bool = False
    for_speed: bool = False
    floor_db: float = 20.0
    storage_floor_db: float = 35.0
    storage_block: int = 0
    storage_min_elements: int = 1024
    least_typical_steps: float = 0.88


# Choices that mean something in every mode.
_EVERYWHERE = frozenset({"requantize"})

ModeName = Literal["static", "dynamic", "weight-only", "fp16"]
MODES: dict[str, Mode] = {
    m.name: m
    for m in (
        Mode(
            "static",
            "int8 activations and weights, with ranges from calibration samples",
            form=Form.INT8,
            storage=INT8,
            options=frozenset(
                {
                    "weights",
                    "acts",
                    "symmetric",
                    "per_tensor",
                    "format",
                    "method",
                    "io",
                    "input_range",
                    "levels",
                    "timestep",
                    "buckets",
                }
            )
            | _EVERYWHERE,
            io=(FLOAT32, UINT8, INT8),
            needs_ranges=True,
            for_speed=True,
        ),
        Mode(
            "dynamic",
            "int8 weights, activations quantized at run time; needs no samples",
            form=Form.DYNAMIC,
            storage=INT8,
            options=_EVERYWHERE,
            for_speed=True,
            floor_db=12.0,
        ),
        Mode(
            "weight-only",
            "weights of 8, 4 or 2 bits, float activations: a smaller file",
            form=None,
            storage=INT8,
            options=frozenset({"bits", "block", "levels", "prefer"}) | _EVERYWHERE,
            for_speed=True,
            floor_db=25.0,
            storage_block=128,
        ),
        Mode(
            "fp16",
            "float16 weights and activations, for hardware that has it",
            form=Form.FLOAT16,
            storage=FLOAT16,
            options=frozenset({"io"}) | _EVERYWHERE,
            io=(FLOAT32, FLOAT16),
            floor_db=50.0,
        ),
    )
}

# The modes that need no samples, with the bits of a weight: a dry run shows the size of each.
SIZED: tuple[tuple[ModeName, int], ...] = (
    ("fp16", 16),
    ("dynamic", 8),
    ("weight-only", 8),
    ("weight-only", 4),
    ("weight-only", 2),
)

# --bits: the types that weights are stored in.
WEIGHT_BITS: dict[int, QType] = {8: INT8, 4: UINT4, 2: UINT2}
# The same for weights of integer products; those of 8 bits have the target's own type.
PRODUCT_BITS: dict[int, QType] = {4: INT4, 2: INT2}
# The first bits of layers in mixed precision, unless --bits or --weights is less.
MIXED_BITS: Final = 4


@dataclass(frozen=True)
class FewBits:
    """The defaults of a weight type of few bits, which has zero points and blocks.

    Args:
        block: values that share a scale by default.
        floor_db: SQNR below which the report warns, whatever the mode.
        centred: zero points are 0.
    """

    block: int
    floor_db: float
    centred: bool = False


FEW_BITS: dict[QType, FewBits] = {
    UINT4: FewBits(32, 10.0),
    UINT2: FewBits(64, 5.0),
    TERNARY: FewBits(64, 5.0, centred=True),
    BINARY: FewBits(64, 5.0, centred=True),
}
# Number of bits -> floor_db of the weight types that have it.
FLOORS: dict[int, float] = {qtype.bits: few.floor_db for qtype, few in FEW_BITS.items()}


@dataclass(frozen=True)
class Published:
    """A row of the table of `tune --table`: a mode and its choices."""

    name: str
    mode: ModeName
    bits: Literal[8, 4] = 8


PUBLISHED: tuple[Published, ...] = (
    Published("FP16", "fp16"),
    Published("int8 dynamic", "dynamic"),
    Published("int8 static", "static"),
    Published("int8 weights", "weight-only"),
    Published("int4 weights", "weight-only", 4),
)
