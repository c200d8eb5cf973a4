"""Random damage to bytes, to fields of a model, and to samples."""

from __future__ import annotations

import contextlib
import random
import struct
from collections.abc import Iterator, Sequence

import numpy as np
import onnx

_EDGES = (1 << 31, (1 << 31) - 1, 1 << 32, 1 << 62, (1 << 63) - 1)
NUMBERS = (0, 1, -1, 2, 3, 7, 8, 127, 128, 255, *_EDGES, -(1 << 31), -(1 << 63))
WORDS = (
    "",
    "x",
    "y",
    "\x1b[2J",
    "a\nb",
    "a" * 300,
    "../w",
    "\u202e",
    "[red]",
    "0",
    "ai.onnx",
    "Relu",
    "MatMul",
)
# Fields whose change the checker may not see.
NUMERIC = frozenset(
    "i ints f floats raw_data float_data int32_data int64_data dim_value dims s elem_type version op_type".split(
        " "
    )
)
FLOATS = (0.0, -0.0, 1.0, -1.0, 1e38, 1e-45, float("inf"), float("-inf"), float("nan"))


def damage(data: bytes, chance: random.Random) -> bytes:
    """Change bytes: some flipped, cut out, doubled, or set to what parsers trip over."""
    changed = bytearray(data)
    for _ in range(chance.choice((1, 1, 2, 5, 20))):
        at = chance.randrange(len(changed) + 1)
        size = chance.choice((1, 1, 4, 30))
        match chance.randrange(6):
            case 0 if at < len(changed):
                changed[at] ^= 1 << chance.randrange(8)
            case 1:
                del changed[at : at + size]
            case 2:
                changed[at:at] = chance.randbytes(size)
            case 3:
                changed[at : at + size] = bytes([chance.choice((0, 0x7F, 0x80, 0xFF))]) * size
            case 4:
                changed[at:at] = changed[at : at + size * 4]
            case 5 if chance.random() < 0.2:
                del changed[at:]
    return bytes(changed)


def fields(message: object, depth: int = 0) -> Iterator[tuple[object, object]]:
    """All fields that are set, of a message and of those in it."""
    for descriptor, value in message.ListFields():
        yield message, descriptor
        if descriptor.message_type is not None and depth < 40:
            for inner in value if isinstance(value, Sequence) or hasattr(value, "add") else (value,):
                yield from fields(inner, depth + 1)


def change(proto: onnx.ModelProto, chance: random.Random) -> None:
    """Change one field of a model to something that is well-formed, and seldom sensible."""
    present = list(fields(proto))
    if not present:
        return
    numbers = [(m, f) for m, f in present if f.name in NUMERIC]
    message, field = chance.choice(numbers if numbers and chance.random() < 0.7 else present)
    value = getattr(message, field.name)
    many = hasattr(value, "extend")
    if chance.random() < 0.15:
        message.ClearField(field.name)
    elif many and (field.message_type is not None or chance.random() < 0.5):
        at = chance.randrange(len(value))
        match chance.randrange(3):
            case 0:
                del value[at]
            case 1 if field.message_type is not None:
                value.add().CopyFrom(value[at])
            case 1:
                value.append(value[at])
            case _:
                kept = [type(v).FromString(v.SerializeToString()) if field.message_type else v for v in value]
                chance.shuffle(kept)
                del value[:]
                value.extend(kept)
    elif field.message_type is not None:
        pass  # its own fields come up by themselves
    elif many:
        at = chance.randrange(len(value))
        with contextlib.suppress(ValueError, TypeError, OverflowError):
            value[at] = other(value[at], chance, proto)
    else:
        with contextlib.suppress(ValueError, TypeError, OverflowError):
            setattr(message, field.name, other(value, chance, proto))


def other(value: object, chance: random.Random, proto: onnx.ModelProto) -> object:
    """Another value of the same type."""
    match value:
        case bool():
            return not value
        case int():
            return chance.choice((*NUMBERS, value + 1, value - 1, value * 2, chance.randrange(30)))
        case float():
            return chance.choice((*FLOATS, value * 2, -value))
        case str():
            names = [n for one in proto.graph.node for n in (*one.input, *one.output, one.op_type)]
            return chance.choice((chance.choice(WORDS), chance.choice(names or [""])))
        case bytes():
            return other_data(value, chance)
    return value


def other_data(data: bytes, chance: random.Random) -> bytes:
    """Other numbers in a tensor's data; seldom more or fewer."""
    if not data or chance.random() < 0.1:
        return damage(data, chance)
    width = chance.choice((1, 4, 8))
    at = chance.randrange(max(1, len(data) // width)) * width
    number = struct.pack("<f", chance.choice(FLOATS)) * 2
    if chance.random() < 0.5:
        number = (chance.choice(NUMBERS) % (1 << 64)).to_bytes(8, "little")
    changed = data[:at] + number[:width] + data[at + width :]
    return changed[: len(data)] if chance.random() < 0.8 else (number * len(data))[: len(data)]


def rearranged(model: bytes, chance: random.Random) -> bytes:
    """A model with some of its fields changed."""
    proto = onnx.load_model_from_string(model)
    for _ in range(chance.choice((1, 1, 1, 2, 4))):
        change(proto, chance)
    try:
        return proto.SerializeToString()
    except Exception:  # a string that can't be encoded
        return model


def strange(sample: dict[str, np.ndarray], chance: random.Random) -> dict[str, np.ndarray]:
    """A copy of a sample in which an array has another shape, type or name, or strange values."""
    changed = dict(sample)
    name = chance.choice(list(changed))
    array = changed[name]
    with np.errstate(all="ignore"):
        match chance.randrange(7):
            case 0:
                changed[name] = array.astype(
                    chance.choice(("float64", "float16", "int8", "bool", "complex64", "U3", "uint64", ">f4"))
                )
            case 1:
                changed[name] = array[None] if chance.random() < 0.5 else array.reshape(-1)
            case 2:
                changed[name] = array.reshape(-1)[:0]
            case 3:
                changed[name] = (
                    np.full_like(array, chance.choice((0, 1)))
                    if array.dtype.kind != "f"
                    else np.full_like(array, chance.choice(FLOATS))
                )
            case 4:
                changed[chance.choice(WORDS) or "other"] = changed.pop(name)
            case 5:
                changed[name] = np.asfortranarray(
                    np.resize(array, [chance.randrange(5) for _ in array.shape])
                )
            case _:
                changed[name] = np.array([{}], dtype=object)
    return changed
