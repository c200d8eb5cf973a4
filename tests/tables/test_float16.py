"""The facts of float16, held against the schemas of onnx and of onnxruntime."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime.capi.onnxruntime_pybind11_state as runtime
import pytest

from qtool.tables import float16

HALF = "tensor(float16)"
MICROSOFT = "com.microsoft::"
THEIRS = {s.name: s for s in runtime.get_all_operator_schema() if s.domain == "com.microsoft"}

NAMED = sorted(
    float16.HEAVY
    | {k.partition("/")[0] for k in (*float16.PRECISE, *float16.NEVER)}
    | float16.FOLLOWED
    | float16.SUMS
    | float16.EXACT_ARGUMENT
    | float16.CONTRIB
    | float16.QUANTIZERS
    | float16.TYPED_BY_ATTRIBUTE.keys()
    | float16.TYPE_BLIND
    | float16.FLOAT32_INPUTS.keys()
    | float16.FLOAT32_OUTPUTS.keys()
)


def schema(op: str) -> onnx.defs.OpSchema:
    return onnx.defs.get_schema(op)


@pytest.mark.parametrize("op", NAMED)
def test_there_is_such_an_op(op: str) -> None:
    name = op.removeprefix(MICROSOFT)
    assert name in THEIRS if op != name else onnx.defs.has(name)


@pytest.mark.parametrize("op", sorted(float16.CONTRIB))
def test_the_runtimes_own_ops_take_float16_in_one_type(op: str) -> None:
    """As ports_of has it: every float input and output but FLOAT32_OUTPUTS is float16 with the others."""
    definition = THEIRS[op.removeprefix(MICROSOFT)]
    able = {c.type_param_str for c in definition.type_constraints if HALF in c.allowed_type_strs}
    floats = {c.type_param_str for c in definition.type_constraints if "tensor(float)" in c.allowed_type_strs}
    assert all(p.typeStr in able for p in definition.inputs if p.typeStr in floats)
    fixed = float16.FLOAT32_OUTPUTS.get(op, ())
    assert all(
        p.typeStr in able or i in fixed for i, p in enumerate(definition.outputs) if p.typeStr in floats
    )


@pytest.mark.parametrize("op", sorted(float16.TYPED_BY_ATTRIBUTE))
def test_types_given_by_attributes(op: str) -> None:
    definition = schema(op)
    assert float16.TYPED_BY_ATTRIBUTE[op] in definition.attributes
    assert HALF in definition.outputs[0].types
    assert not definition.attributes[float16.TYPED_BY_ATTRIBUTE[op]].required or op == "Cast"


@pytest.mark.parametrize("op", sorted(float16.TYPE_BLIND))
def test_the_first_input_is_of_any_float_type(op: str) -> None:
    definition = schema(op)
    assert {HALF, "tensor(float)"} <= set(definition.inputs[0].types)
    assert definition.inputs[0].type_str not in {o.type_str for o in definition.outputs} or op in float16.LIKE


@pytest.mark.parametrize("op", sorted(float16.FLOAT32_INPUTS))
def test_inputs_that_stay_have_their_own_type(op: str) -> None:
    definition = schema(op)
    for index in float16.FLOAT32_INPUTS[op]:
        assert "tensor(float)" in definition.inputs[index].types
        assert definition.inputs[index].type_str not in {o.type_str for o in definition.outputs}


@pytest.mark.parametrize("key", sorted(k for k in float16.NEVER if "/" in k))
def test_values_of_attributes_are_valid(key: str) -> None:
    op, _, setting = key.partition("/")
    name, _, _ = setting.partition("=")
    assert name in schema(op).attributes


def test_followed_ops_are_precise_ones() -> None:
    assert float16.FOLLOWED - {"Gather"} <= float16.PRECISE.keys()
    assert not float16.HEAVY & float16.PRECISE.keys()


def test_the_largest() -> None:
    assert np.float64(np.finfo(np.float16).max) == float16.LARGEST
