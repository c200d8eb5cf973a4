"""The ops that are worthwhile in int8 on each runtime: a row a target, a placement an op.

The cpu rows are measurements of onnxruntime 1.31.1's CPU provider against its float kernels
(docs/targets.md has the method). A key is an op type, or `op/variant` for the forms
that plan/variants.py distinguishes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Literal

from qtool.tables.forms import Form
from qtool.tables.ops import OPS, Role
from qtool.tables.qtypes import INT8, INT8_PAIRED, INT8_REDUCED, UINT8, UINT16, QType
from qtool.tables.reasons import Code, Reason
from qtool.tables.runtimes import DEFAULT

# --timing: whether placement times this very model, or looks its kernels up.
MEASURED, TABLE = "measured", "table"
TIMINGS = (MEASURED, TABLE)


class Worth(Enum):
    """When an op is worthwhile in int8."""

    ALWAYS = "always"
    INSIDE = "only between other int8 ops"
    NEVER = "never"


@dataclass(frozen=True)
class Placement:
    """Whether an op runs in int8, and the reason if not.

    Args:
        worth: by the table alone.
        measured: the worth that timing may find; None: as in the table.
    """

    worth: Worth
    reason: Reason
    measured: Worth | None = None


ALWAYS = Placement(Worth.ALWAYS, Reason(Code.TARGET))
INSIDE = Placement(
    Worth.INSIDE,
    Reason(Code.TARGET, "isolated: no int8 neighbour, so Q and DQ would cost more than int8 saves"),
)


def _never(reason: str) -> Placement:
    return Placement(Worth.NEVER, Reason(Code.TARGET, reason))


def _no_form(reason: str) -> Placement:
    return Placement(Worth.NEVER, Reason(Code.NO_FORM, reason))


def _seldom(reason: str, measured: Worth = Worth.ALWAYS) -> Placement:
    """Return the placement of an op whose kernel is faster only in places that a measurement must find."""
    return Placement(Worth.NEVER, Reason(Code.TARGET, reason), measured)


NO_FORM = _no_form("no quantized form")
WEIGHTS_ONLY = _no_form("only weights are quantized in this mode")
_NO_DYNAMIC = _no_form("no form with activations quantized at run time")
_NO_BLOCKS = _no_form("no kernel that unpacks its weight")


@dataclass(frozen=True)
class Placements:
    """The placements of ops in one form.

    Args:
        rows: op or op/variant -> placement.
        otherwise: of all other ops.
        min_weight: elements of the weight below which a MatMul or Gemm stays float.
        min_vector_weight: the same where its input is known to be one row.
    """

    rows: Mapping[str, Placement]
    otherwise: Placement
    min_weight: int = 0
    min_vector_weight: int = 0

    def of(self, op_type: str, variant: str = "") -> Placement:
        """Return the most specific row for an op and its variant."""
        for key in (f"{op_type}/{variant}", op_type):
            if key in self.rows:
                return self.rows[key]
        return self.otherwise


@dataclass(frozen=True)
class Target:
    """One runtime and machine to quantize for.

    Args:
        forms: the placements in each form of the target; those of FLOAT16 are in tables/float16.py.
        activation, weight: the fastest pair of types of its kernels, and the default.
        depthwise_weight: the type of a depthwise convolution's weight, where its kernel takes a wider one.
        linear_output: whether a MatMul or Gemm quantizes its output, too; else that is float.
        float_results: a result that no int8 op reads stays float: int8 products write floats, too.
        float_biases: biases stay float, for the same reason.
        symmetric: ranges of activations are symmetric about 0.
        fused_adds: an Add is computed with the convolution before it, whose result therefore stays float.
        arm: it is for ARM CPUs.
        float_storage: weights of float nodes stay float: the runtime has no DequantizeLinear before them.
        wide: the type of activations where the default one loses too much; None: there is none.
        constant_recurrent: the weights of recurrent layers must be constants: they have no stored form.
        onnxruntime: whether the runtime is onnxruntime: it has com.microsoft's fused ops, and its optimizers
            need fusion barriers (plan/barriers.py, graph/prepare/norms.py).
        exact: its weights have all 8 bits, and its CPU sums their products without saturation.
        split: the longest product of a dynamic MatMul; longer ones are split, so that an outlier coarsens one
            part only.
        runtime: a row of tables/runtimes.py, in which plans are raced and judged; '': not known, and plans
            are judged in onnxruntime.
    """

    name: str
    summary: str
    forms: Mapping[Form, Placements]
    activation: QType = UINT8
    weight: QType = INT8
    depthwise_weight: QType | None = None
    linear_output: bool = False
    float_results: bool = False
    float_biases: bool = False
    symmetric: bool = False
    fused_adds: bool = False
    arm: bool = False
    float_storage: bool = False
    wide: QType | None = None
    constant_recurrent: bool = False
    onnxruntime: bool = False
    exact: bool = False
    split: int = 512
    runtime: str = ""


_TWO_ACTIVATIONS = _never("a product of two activations is not faster in int8 (1.0-1.2x as fast)")
_CPU_INT8: dict[str, Placement] = {
    "Conv": ALWAYS,
    "Conv/stem": _seldom("a first convolution of few input values is 0.5x as fast in int8"),
    "Conv/depthwise": INSIDE,
    "Conv/grouped": _seldom("a grouped convolution is 0.3x as fast in int8"),
    "MatMul": ALWAYS,
    "MatMul/activations": _TWO_ACTIVATIONS,
    "MatMul/fed": _TWO_ACTIVATIONS,
    "Gemm": ALWAYS,
    "ConvTranspose": _never("there is no int8 ConvTranspose kernel"),
    "LSTM": ALWAYS,
    "GRU": _never("there is no int8 GRU kernel"),
    "RNN": _never("there is no int8 RNN kernel"),
    "Add": INSIDE,
    "Sigmoid": INSIDE,
    "LeakyRelu": INSIDE,
    "Mul/silu": INSIDE,
    "Mul": _seldom("Mul is 0.5-0.7x as fast in int8", Worth.INSIDE),
    "Mul/square": _never("a square needs twice the bits of its argument"),
    "Relu": INSIDE,
    "Clip": INSIDE,
    "MaxPool": INSIDE,
    "GlobalAveragePool": INSIDE,
    "Concat": INSIDE,
    "Transpose": INSIDE,
    "Reshape": INSIDE,
    "Flatten": INSIDE,
    "Squeeze": INSIDE,
    "Unsqueeze": INSIDE,
    "Slice": INSIDE,
    "Split": INSIDE,
    "Gather": INSIDE,
    "Expand": INSIDE,
    "Tile": INSIDE,
    "DepthToSpace": INSIDE,
    "Softmax": _never("Softmax is 0.16x as fast in int8"),
    "AveragePool": _never("AveragePool is 0.04-0.1x as fast in int8"),
    "Resize": _never("Resize is not faster in int8"),
}
_NO_KERNEL = _never("no int8 kernel: it would run in float between a DQ and a Q")
_CPU_FORMS: dict[Form, Placements] = {
    Form.INT8: Placements(_CPU_INT8, _NO_KERNEL, min_weight=512, min_vector_weight=512),
    Form.DYNAMIC: Placements(
        {
            "MatMul": ALWAYS,
            "Gemm": ALWAYS,
            "MatMul/activations": _TWO_ACTIVATIONS,
            "MatMul/fed": _TWO_ACTIVATIONS,
            "LSTM": ALWAYS,
            "Conv": _never("a convolution quantized at run time is 0.03-1.2x as fast"),
        },
        _NO_DYNAMIC,
        min_weight=8192,
        min_vector_weight=150_000,
    ),
    Form.NBITS: Placements(
        {"MatMul": ALWAYS, "Gemm": ALWAYS, "com.microsoft::MoE": ALWAYS},
        _NO_BLOCKS,
        min_weight=262_144,
        min_vector_weight=65_536,
    ),
}

_TWO_IN_OPENVINO = _seldom("a product of two activations is seldom faster in int8", Worth.INSIDE)
_IN_FLOAT = _never("OpenVINO computes it in float, between a DQ and a Q")
_STANDARD_DYNAMIC = Placements(
    {
        "MatMul": ALWAYS,
        "Gemm": ALWAYS,
        "MatMul/activations": _never("a product of two activations has no weight to shrink"),
        "Conv": ALWAYS,
    },
    _NO_DYNAMIC,
)
_OPENVINO_FORMS: dict[Form, Placements] = {
    Form.INT8: Placements(
        {
            **{r.op_type: INSIDE for r in OPS.values() if r.role in (Role.PASS, Role.EPILOGUE)},
            "Conv": ALWAYS,
            "ConvTranspose": ALWAYS,
            "MatMul": ALWAYS,
            "Gemm": ALWAYS,
            "MatMul/activations": _seldom(
                "a product of two activations is seldom faster in int8", Worth.INSIDE
            ),
            "MatMul/fed": _seldom("a product of two activations is seldom faster in int8", Worth.INSIDE),
            "Add": INSIDE,
            "Mul": _seldom("Mul is faster in int8 between int8 ops only", Worth.INSIDE),
            "Mul/square": _never("a square needs twice the bits of its argument"),
            "AveragePool": INSIDE,
            "GlobalAveragePool": INSIDE,
            "Concat": INSIDE,
            "Resize": INSIDE,
        },
        _IN_FLOAT,
    ),
    Form.DYNAMIC: _STANDARD_DYNAMIC,
}

_QNN_INT8: dict[str, Placement] = {
    **{r.op_type: INSIDE for r in OPS.values() if r.role in (Role.PASS, Role.EPILOGUE)},
    "InstanceNormalization": _never("its norm is in float16 there"),
    "LayerNormalization": _never("its norm is in float16 there"),
    "BatchNormalization": _never("its norm is in float16 there"),
}
_BY_TENSORRT = _never("TensorRT moves Q and DQ past it, or computes it in float16")
_TENSORRT_FORMS: dict[Form, Placements] = {
    Form.INT8: Placements(
        {
            "Conv": ALWAYS,
            "ConvTranspose": ALWAYS,
            "MatMul": ALWAYS,
            "Gemm": ALWAYS,
            "Add/residual": ALWAYS,
        },
        _BY_TENSORRT,
    )
}

# --target: the row that fits this machine's CPU (runtime/cpu.py).
AUTO = "auto"
# The targets of this machine's CPU whose runtimes are installed, raced against each other.
BEST = "best"

TargetName = Literal[
    "auto", "best", "cpu", "cpu-avx2", "arm64", "generic", "openvino", "openvino-avx2", "qnn", "tensorrt"
]
TARGETS: dict[str, Target] = {
    t.name: t
    for t in (
        Target(
            "cpu",
            "onnxruntime on a CPU with VNNI or AMX (x86 since 2019)",
            _CPU_FORMS,
            onnxruntime=True,
            exact=True,
            runtime=DEFAULT,
        ),
        Target(
            "cpu-avx2",
            "onnxruntime on a CPU without VNNI: weights of 7 to 8 bits, since u8 x s8 sums saturate there",
            _CPU_FORMS,
            weight=INT8_PAIRED,
            depthwise_weight=INT8,  # its kernel multiplies in 16 bits and adds in 32 (docs/targets.md)
            onnxruntime=True,
            runtime=DEFAULT,
        ),
        Target(
            "arm64",
            "onnxruntime on an ARM CPU, whose kernels sum products of 8 bits exactly",
            _CPU_FORMS,
            arm=True,
            onnxruntime=True,
            exact=True,
            runtime=DEFAULT,
        ),
        Target(
            "generic",
            "standard ONNX operators that any runtime reads, on every op that has a form",
            {
                Form.INT8: Placements(
                    {
                        **{r.op_type: INSIDE for r in OPS.values() if r.role in (Role.PASS, Role.EPILOGUE)},
                        "Mul/square": _never("a square needs twice the bits of its argument"),
                        "Sub": _never("a difference of near equals keeps none of their 8 bits"),
                        "ReduceSum": _never("a sum's range is far wider than its terms'"),
                        "ReduceMean": _never("the norms that use it need more than 8 bits"),
                        "Div": _never("a quotient's range is set by the smallest divisor"),
                        "LayerNormalization": _never("no standard quantized form"),
                        "InstanceNormalization": _never("no standard quantized form"),
                        "BatchNormalization": _never("no standard quantized form"),
                    },
                    ALWAYS,
                ),
                Form.DYNAMIC: _STANDARD_DYNAMIC,
            },
            linear_output=True,
        ),
        Target(
            "openvino",
            "OpenVINO on a CPU with VNNI or AMX; plans are raced there (pip install onnxruntime-ep-openvino)",
            _OPENVINO_FORMS,
            float_results=True,
            float_biases=True,
            constant_recurrent=True,
            exact=True,
            runtime="openvino",
        ),
        Target(
            "openvino-avx2",
            "OpenVINO on a CPU without VNNI: 7-bit weights",
            _OPENVINO_FORMS,
            weight=INT8_REDUCED,
            float_results=True,
            float_biases=True,
            constant_recurrent=True,
            runtime="openvino",
        ),
        Target(
            "qnn",
            "Qualcomm's NPU, judged on its simulator (pip install onnxruntime-qnn); shapes must be static",
            {Form.INT8: Placements(_QNN_INT8, ALWAYS)},
            linear_output=True,
            wide=UINT16,
            float_storage=True,
            runtime="qnn",
        ),
        Target(
            "tensorrt",
            "TensorRT: symmetric int8 before convolutions and products, all other nodes in float",
            _TENSORRT_FORMS,
            activation=INT8,
            symmetric=True,
            float_results=True,
            float_biases=True,
            fused_adds=True,
            exact=True,
        ),
    )
}
