"""The scheme: choices that the tables allow are settled, and all others refused by the name of the option."""

from __future__ import annotations

from dataclasses import fields
from itertools import product
from typing import Any

import pytest

from qtool.errors import UsageError
from qtool.plan.scheme import (
    ACTIVATION_TYPES,
    FORMATS,
    IO_TYPES,
    PER_CHANNEL_OPSET,
    PREFERENCES,
    WEIGHT_TYPES,
    WIDE_OPSET,
    Choices,
    make_scheme,
)
from qtool.tables.forms import Form
from qtool.tables.modes import FEW_BITS, MODES, WEIGHT_BITS
from qtool.tables.ops import OPS, Role
from qtool.tables.qtypes import FLOAT32, INT8, QTYPES, UINT8, QType
from qtool.tables.targets import TARGETS

# A value of each choice that is not its default, and valid in every mode that has the option.
MADE: dict[str, Any] = {
    "weights": "uint8",
    "acts": "int8",
    "symmetric": True,
    "per_tensor": True,
    "format": "qoperator",
    "bits": 4,
    "block": 64,
    "prefer": "speed",
    "method": "mse",
    "levels": "ternary",
    "timestep": "t",
    "buckets": 4,
    "requantize": True,
}
CHOSEN = [*MADE.items(), *(("io", t) for t in IO_TYPES if t != "float")]
LACKING = [
    (m.name, t.name)
    for m in MODES.values()
    for t in TARGETS.values()
    if m.form is Form.DYNAMIC and m.form not in t.forms
]
EVERYWHERE = [(m, t) for m in MODES for t in TARGETS if (m, t) not in LACKING]


def allowed(mode: str, target: str, name: str, value: Any) -> bool:
    """Whether the tables allow one choice alone."""
    if name not in MODES[mode].options:
        return False
    if name == "io":
        return QTYPES[value] in MODES[mode].io
    if name == "prefer":
        return Form.NBITS in TARGETS[target].forms
    return True


def test_these_tests_try_every_choice() -> None:
    assert {name for name, _ in CHOSEN} == {f.name for f in fields(Choices)}


@pytest.mark.parametrize(("mode", "target"), EVERYWHERE)
def test_defaults_are_those_of_the_mode_and_the_target(mode: str, target: str) -> None:
    scheme = make_scheme(mode, target, Choices())
    row, machine = MODES[mode], TARGETS[target]
    assert (scheme.mode, scheme.target) == (row, machine)
    assert (scheme.form, scheme.storage, scheme.floor_db) == (row.form, row.storage, row.floor_db)
    assert (scheme.activation, scheme.weight) == (machine.activation, machine.weight)
    assert (scheme.io, scheme.block, scheme.forces_form) == (FLOAT32, 0, False)


@pytest.mark.parametrize(("name", "value"), CHOSEN)
def test_choices_are_accepted_or_refused_by_the_tables(name: str, value: Any) -> None:
    for mode, target in EVERYWHERE:
        if allowed(mode, target, name, value):
            make_scheme(mode, target, Choices(**{name: value}))
            continue
        with pytest.raises(UsageError) as caught:
            make_scheme(mode, target, Choices(**{name: value}))
        assert f"--{name.replace('_', '-')}" in caught.value.message
        if name not in MODES[mode].options:  # the hint names the modes that have the option
            assert mode in caught.value.message
            named = set(caught.value.hint.replace(",", " ").split()) & MODES.keys()
            assert named == {m for m, row in MODES.items() if name in row.options}


UNKNOWN = {
    "weights": ("static", "int9"),
    "acts": ("static", "uint9"),
    "format": ("static", "qlinear"),
    "io": ("static", "int16"),
    "prefer": ("weight-only", "quality"),
    "levels": ("weight-only", "quaternary"),
    "bits": ("weight-only", 5),
    "block": ("weight-only", 48),
}


@pytest.mark.parametrize(("name", "mode", "value"), [(k, *v) for k, v in UNKNOWN.items()], ids=UNKNOWN)
def test_an_unknown_value_names_its_option_and_itself(name: str, mode: str, value: Any) -> None:
    with pytest.raises(UsageError) as caught:
        make_scheme(mode, "cpu", Choices(**{name: value}))
    assert f"--{name}" in caught.value.message
    assert str(value) in caught.value.message


@pytest.mark.parametrize(
    ("name", "mode", "value"),
    [
        ("weights", "static", "float32"),
        ("weights", "static", "uint16"),
        ("weights", "static", "uint4"),
        ("acts", "static", "float16"),
        ("acts", "static", "int8-reduced"),
        ("io", "static", "float32"),
        ("io", "static", "float16"),
        ("io", "static", ""),
        ("io", "fp16", "uint8"),
        ("format", "static", ""),
        ("prefer", "weight-only", ""),
        ("bits", "weight-only", 0),
        ("block", "weight-only", -32),
    ],
)
def test_a_value_of_another_option_or_mode_is_refused(name: str, mode: str, value: Any) -> None:
    with pytest.raises(UsageError, match=name):
        make_scheme(mode, "cpu", Choices(**{name: value}))


@pytest.mark.parametrize(
    ("mode", "target", "wrong", "hint"),
    [
        ("statik", "cpu", "no mode 'statik'", "static"),
        ("static", "cpu-avx", "no target 'cpu-avx'", "cpu-avx2"),
        ("zzz", "cpu", "no mode 'zzz'", "weight-only"),
        ("static", "zzz", "no target 'zzz'", "generic"),
    ],
)
def test_an_unknown_mode_or_target_is_an_error_that_lists_the_choices(
    mode: str, target: str, wrong: str, hint: str
) -> None:
    with pytest.raises(UsageError, match=wrong) as caught:
        make_scheme(mode, target, Choices())
    assert hint in caught.value.hint


@pytest.mark.parametrize(("word", "hint"), [("qoperater", "qoperator"), ("zzz", "qdq or qoperator")])
def test_the_hint_for_an_unknown_word_names_the_nearest_or_all(word: str, hint: str) -> None:
    with pytest.raises(UsageError) as caught:
        make_scheme("static", "cpu", Choices(format=word))
    assert hint in caught.value.hint


def refused(weight: QType, act: QType, form: str) -> bool:
    """Integer operators have kernels for 8 bits, and for s8 activations with s8 weights only."""
    if form == "qdq":
        return False
    return weight.bits not in (7, 8) or act.bits > 8 or (act is INT8 and weight is UINT8)


@pytest.mark.parametrize("act", ACTIVATION_TYPES, ids=lambda t: f"acts-{t.name}")
@pytest.mark.parametrize("weight", WEIGHT_TYPES, ids=lambda t: f"weights-{t.name}")
def test_pairs_of_types(weight: QType, act: QType) -> None:
    for form, target in product(FORMATS, TARGETS):
        choices = Choices(weights=weight.name, acts=act.name, format=form)
        if refused(weight, act, form):
            with pytest.raises(UsageError, match="format qoperator") as caught:
                make_scheme("static", target, choices)
            pair = f"--acts {act.name}", f"--weights {weight.name}"
            assert any(option in caught.value.message for option in pair)
            continue
        scheme = make_scheme("static", target, choices)
        assert scheme.activation is act
        # int8 is the target's own 8 signed bits; AVX2 has 7.
        assert scheme.weight is (TARGETS[target].weight if weight is INT8 else weight)
        assert scheme.opset == (
            max(weight.since, WIDE_OPSET if act.bits == 16 or TARGETS[target].wide else PER_CHANNEL_OPSET)
        )
        assert scheme.forces_form


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("prefer", PREFERENCES)
@pytest.mark.parametrize(("bits", "block"), [(8, 0), (8, 64), (4, 0), (4, 32), (2, 0), (2, 128)])
def test_weight_only_in_every_size(bits: int, block: int, prefer: str, target: str) -> None:
    choices = Choices(bits=bits, block=block, prefer=prefer)
    if prefer == "speed" and Form.NBITS not in TARGETS[target].forms:
        with pytest.raises(UsageError, match="prefer speed") as caught:
            make_scheme("weight-only", target, choices)
        able = [t for t, row in TARGETS.items() if Form.NBITS in row.forms]
        assert all(t in caught.value.hint for t in able)
        return
    scheme = make_scheme("weight-only", target, choices)
    assert scheme.form is (Form.NBITS if prefer == "speed" else None)
    assert scheme.storage is WEIGHT_BITS[bits]
    few = FEW_BITS.get(scheme.storage)
    assert scheme.block == (block or (few.block if few else 0))
    assert scheme.floor_db == (few.floor_db if few else MODES["weight-only"].floor_db)
    # 4 bits in any form, and blocks where DequantizeLinear has to say them, came with opset 21; 2 bits with 25.
    standard = not TARGETS[target].onnxruntime
    assert scheme.opset == {8: WIDE_OPSET if standard else PER_CHANNEL_OPSET, 4: WIDE_OPSET, 2: 25}[bits]


@pytest.mark.parametrize(("mode", "target"), EVERYWHERE)
@pytest.mark.parametrize(
    ("sets", "needed"),
    [
        (("a=int4",), WIDE_OPSET),
        (("a=fp16", "b=int4", "c=fp32"), WIDE_OPSET),
        (("a=int2", "b=int4"), 25),
        (("a=int8", "b=fp32"), 0),
        (("int4=fp32", "int2=int8"), 0),
    ],
)
def test_few_bits_for_some_nodes_need_the_opset_for_all(
    mode: str, target: str, sets: tuple[str, ...], needed: int
) -> None:
    least = make_scheme(mode, target, Choices()).opset
    assert make_scheme(mode, target, Choices(), sets).opset == max(needed, least)


@pytest.mark.parametrize("io", [t for t in IO_TYPES if t != "float"])
def test_integer_and_half_ports_have_the_requested_type(io: str) -> None:
    for mode in MODES.values():
        if "io" in mode.options and QTYPES[io] in mode.io:
            scheme = make_scheme(mode.name, "cpu", Choices(io=io))
            assert scheme.io is QTYPES[io]
            assert scheme.forces_form


@pytest.mark.parametrize(
    ("choice", "forced"),
    [
        ({"symmetric": True}, False),
        ({"per_tensor": True}, False),
        ({"weights": "int16"}, True),
        ({"acts": "uint16"}, True),
        ({"format": "qoperator"}, True),
        ({"io": "uint8"}, True),
    ],
    ids=str,
)
def test_requested_types_and_forms_are_kept(choice: dict[str, Any], forced: bool) -> None:
    assert make_scheme("static", "cpu", Choices(**choice)).forces_form is forced


def test_made_lists_the_choices_that_differ_from_the_default() -> None:
    assert Choices(**{f.name: f.default for f in fields(Choices)}).made() == {}
    for name, value in CHOSEN:
        assert Choices(**{name: value}).made() == {name: value}


@pytest.mark.parametrize(("mode", "target"), EVERYWHERE)
def test_a_node_has_the_form_of_the_mode_or_none(mode: str, target: str) -> None:
    """A recurrent layer's activations can't be calibrated: in static mode too it is quantized at run time."""
    scheme = make_scheme(mode, target, Choices())
    forms = {op: scheme.form_of(rule) for op, rule in OPS.items()}
    at_run_time = {op for op, rule in OPS.items() if rule.role is Role.RECURRENT and forms[op] is not None}
    assert at_run_time == ({"LSTM"} if scheme.form in (Form.INT8, Form.DYNAMIC) else set())
    assert all(forms[op] is Form.DYNAMIC for op in at_run_time)
    others = OPS.keys() - at_run_time
    assert all(forms[op] is (scheme.form if scheme.form in OPS[op].forms else None) for op in others)


@pytest.mark.parametrize(("mode", "target"), LACKING)
def test_a_mode_that_a_target_has_no_kernel_for_is_refused(mode: str, target: str) -> None:
    with pytest.raises(UsageError, match=f"mode {mode} has no kernel on target {target}"):
        make_scheme(mode, target, Choices())


def test_few_bits_are_the_only_storage_with_a_default_block() -> None:
    for bits in WEIGHT_BITS:
        assert (make_scheme("weight-only", "cpu", Choices(bits=bits)).block > 0) == (bits < 8)
