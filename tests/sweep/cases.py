"""The cases of onnx's own backend suite: tiny models of every op, each with inputs and expected outputs.

`node` cases are made in code, a node (or the expansion of its function) a model; the others are files in
the onnx package. Nothing is downloaded.
"""

from __future__ import annotations

import warnings
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import ModelProto, TensorProto, ValueInfoProto, numpy_helper
from onnx.backend.test.case.node import collect_testcases
from onnx.backend.test.case.test_case import TestCase
from onnx.backend.test.loader import load_model_tests
from onnx.backend.test.runner import Runner

# `real` cases are downloads; `light` ones, in the package, are the same graphs with weights made on the spot.
_KINDS = ("simple", "pytorch-converted", "pytorch-operator")
_LIGHT = Path(onnx.backend.test.__file__).parent / "data" / "light"
# The other seven are of the same ops, and take minutes.
_SMALL_LIGHT = ("light_squeezenet", "light_shufflenet")
# The suite's own absolute tolerance is nothing to a sum of many terms near 0.
_ATOL = 1e-5


@dataclass(frozen=True)
class Case:
    """A model, what it is fed, and what should come out.

    Args:
        inputs: arrays; for other types what onnxruntime takes: a list for a sequence, None for nothing.
        outputs: as they are in the suite, in the order of the graph's.
    """

    name: str
    model: ModelProto
    inputs: Mapping[str, Any]
    outputs: Sequence[Any]
    rtol: float

    @property
    def sample(self) -> dict[str, np.ndarray] | None:
        """The inputs as a sample for qtool; None where one is no array."""
        arrays = {k: v for k, v in self.inputs.items() if isinstance(v, np.ndarray)}
        return arrays if len(arrays) == len(self.inputs) else None

    def agrees(self, outputs: Sequence[Any]) -> bool:
        """Whether outputs are the expected ones."""
        return len(outputs) == len(self.outputs) and all(
            _alike(a, b, self.rtol) for a, b in zip(self.outputs, outputs, strict=True)
        )


@cache
def names(*, kept: bool = False, every: int = 1) -> list[str]:
    """The names of one in `every` cases, always the same ones, each with the variants that it has.

    Args:
        kept: only the small cases that are files: making the others takes a quarter of a minute.
        every: how many cases there are to one that is named.
    """
    cases = _files() if kept else (*_suite(), *_light())
    chosen = [n for n in cases if zlib.crc32(n.encode()) % every == 0]
    return sorted(f"{name}{suffix}" for name in chosen for suffix in _variants(name))


def case(name: str) -> Case:
    """A case by a name from `names`."""
    stem, dot, suffix = name.partition(".")
    light = _read(stem)
    return replace(frozen(light, _variants(stem)[dot + suffix]), name=name)


def frozen(case: Case, inputs: Sequence[str]) -> Case:
    """The case with some of its inputs as initializers."""
    model = ModelProto()
    model.CopyFrom(case.model)
    kept = [i for i in model.graph.input if i.name not in inputs]
    del model.graph.input[:]
    model.graph.input.extend(kept)
    model.graph.initializer.extend(numpy_helper.from_array(case.inputs[n], n) for n in inputs)
    model.ir_version = max(model.ir_version, 4)  # below, an initializer is an input too
    return replace(case, model=model, inputs={k: v for k, v in case.inputs.items() if k not in inputs})


def _variants(name: str) -> dict[str, list[str]]:
    """Suffix -> inputs that become initializers.

    `.weights`: all floats but the first, since most cases have weights as inputs. `.constants`: all else but
    the first float, such as shapes and axes, too.
    """
    if name in _light():
        return {"": []}
    tensors = [i for i in fed(_case(name)) if i.type.HasField("tensor_type") and i.type.tensor_type.elem_type]
    floats = [i.name for i in tensors if i.type.tensor_type.elem_type == TensorProto.FLOAT]
    others = [i.name for i in tensors if i.name not in floats]
    variants: dict[str, list[str]] = {"": []}
    if floats[1:]:
        variants[".weights"] = floats[1:]
    if floats and others:
        variants[".constants"] = [*floats[1:], *others]
    return variants


def _case(name: str) -> TestCase:
    return _files()[name] if name in _files() else _suite()[name]


@cache
def _files() -> dict[str, TestCase]:
    """The cases that are files, named after their kind."""
    return {f"{kind}-{t.name}": t for kind in _KINDS for t in load_model_tests(kind=kind)}


@cache
def _suite() -> dict[str, TestCase]:
    """Everything but `light`, by name."""
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")  # of the suite's own arithmetic
        suite = {t.name: t for t in collect_testcases(None)}
    return suite | _files()


def _light() -> dict[str, Path]:
    return {name: _LIGHT / f"{name}.onnx" for name in _SMALL_LIGHT}


def fed(test: TestCase) -> list[ValueInfoProto]:
    """The inputs that a case feeds: before IR version 4, initializers are inputs too."""
    graph = _model(test).graph
    own = {t.name for t in graph.initializer}
    return [i for i in graph.input if i.name not in own]


def _model(test: TestCase) -> ModelProto:
    if test.model is None:
        test.model = onnx.load(Path(test.model_dir or "") / "model.onnx")
    return test.model


def _read(name: str) -> Case:
    if name in _light():
        return _read_light(_light()[name])
    test = _case(name)
    model = _model(test)
    if test.data_sets is not None:
        inputs, outputs = test.data_sets[0]
    else:
        folder = Path(test.model_dir or "") / "test_data_set_0"
        inputs = list(_values(folder, "input", fed(test)))
        outputs = list(_values(folder, "output", model.graph.output))
    arrays = {i.name: _plain(v) for i, v in zip(fed(test), inputs, strict=False)}
    return Case(name, model, arrays, [_plain(v) for v in outputs], test.rtol)


def _read_light(path: Path) -> Case:
    """The suite's runner feeds them its dummy data."""
    model = onnx.load(path)
    own = {t.name for t in model.graph.initializer}
    inputs = {
        i.name: Runner.generate_dummy_data(i, seed=0, name=path.stem, random=False)
        for i in model.graph.input
        if i.name not in own
    }
    expected = onnx.load_tensor(str(path.with_name(f"{path.stem}_output_0.pb")))
    return Case(path.stem, model, inputs, [_plain(expected)], 2e-3)


def _values(folder: Path, kind: str, infos: Sequence[ValueInfoProto]) -> Iterator[Any]:
    for index, info in enumerate(infos):
        data = (folder / f"{kind}_{index}.pb").read_bytes()
        if info.type.HasField("sequence_type"):
            yield numpy_helper.to_list(onnx.SequenceProto.FromString(data))
        elif info.type.HasField("optional_type"):
            yield numpy_helper.to_optional(onnx.OptionalProto.FromString(data))
        else:
            yield TensorProto.FromString(data)


def _plain(value: Any) -> Any:
    """Tensors and scalars as arrays, in lists too."""
    if isinstance(value, TensorProto):
        return numpy_helper.to_array(value)
    if isinstance(value, list):
        return [_plain(v) for v in value]
    return np.asarray(value) if isinstance(value, np.generic | int | float | bool) else value


def _alike(a: Any, b: Any, rtol: float) -> bool:
    if isinstance(a, list) or isinstance(b, list):
        both = isinstance(a, list) and isinstance(b, list) and len(a) == len(b)
        return both and all(_alike(x, y, rtol) for x, y in zip(a, b, strict=True))
    if a is None or b is None:
        return a is b
    a, b = np.asarray(a), np.asarray(b)
    if a.shape != b.shape:
        return False
    if a.dtype.kind not in "fc":
        return bool(np.array_equal(a, b))
    with np.errstate(all="ignore"):
        atol = _ATOL * np.nanmax(np.abs(a[np.isfinite(a)]), initial=0.0)
        return bool(np.allclose(b, a, rtol=rtol, atol=atol, equal_nan=True))
