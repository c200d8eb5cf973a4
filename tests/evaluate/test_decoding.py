"""Decoders judged token by token, with the cache in use."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import numpy_helper
from scipy.special import logsumexp

import qtool
from qtool.errors import DataError, ModelError
from qtool.evaluate.decoding import stepped
from qtool.evaluate.reference_outputs import ReferenceOutputs
from qtool.options import Comparing
from qtool.runtime.session import Session
from tests.tiny_llm import Size, texts, tiny_llm

SIZE = Size(layers=1, vocabulary=32, width=32, inner=32, heads=2)
DATA = texts(4, 7, SIZE)


@pytest.fixture(scope="module")
def decoder() -> onnx.ModelProto:
    return tiny_llm(SIZE)


def in_one_run(model: onnx.ModelProto, **inputs: np.ndarray) -> np.ndarray:
    """The scores of a text in a single run, straight from the runtime."""
    session = onnxruntime.InferenceSession(model.SerializeToString())
    ids = inputs["input_ids"]
    empty = {
        i.name: np.zeros((1, i.shape[1], 0, i.shape[3]), np.float32)
        for i in session.get_inputs()
        if i.name.startswith("past")
    }
    return np.asarray(session.run(["logits"], {"attention_mask": np.ones_like(ids), **empty, **inputs})[0])


def perplexity(model: onnx.ModelProto, data: list[dict[str, np.ndarray]] = DATA) -> float:
    losses = []
    for sample in data:
        scores, ids = in_one_run(model, **sample)[0].astype(np.float64), sample["input_ids"][0]
        losses += [logsumexp(s) - s[i] for s, i in zip(scores[:-1], ids[1:], strict=True)]
    return float(np.exp(np.mean(losses)))


def compared(fp32: Any, other: Any, *metrics: str, data: Any = DATA, **options: Any) -> qtool.Report:
    return qtool.compare(
        fp32, other, data, Comparing(metrics=metrics or ["perplexity"], gate="none", **options)
    )


def forgetful(model: onnx.ModelProto) -> onnx.ModelProto:
    """The decoder with values in its cache that are half of what they should be."""
    made = onnx.ModelProto.FromString(model.SerializeToString())
    attention = next(n for n in made.graph.node if n.op_type == "GroupQueryAttention")
    value = attention.output[2]
    attention.output[2] = "whole"
    made.graph.initializer.append(numpy_helper.from_array(np.array(0.5, np.float32), "half"))
    made.graph.node.append(onnx.helper.make_node("Mul", ["whole", "half"], [value]))
    return made


def test_perplexity_is_that_of_the_steps(decoder: onnx.ModelProto) -> None:
    values = compared(decoder, decoder).comparison.user_metrics
    assert values["perplexity"] == values["perplexity_fp32"] == pytest.approx(perplexity(decoder), rel=1e-4)


def test_the_cache_is_in_use(decoder: onnx.ModelProto) -> None:
    broken = forgetful(decoder)
    single = compared(decoder, broken, "perplexity:cache=0").comparison.user_metrics
    assert single["perplexity"] == single["perplexity_fp32"], "a single run never reads what it wrote"
    steps = compared(decoder, broken).comparison
    assert steps.user_metrics["perplexity"] != pytest.approx(steps.user_metrics["perplexity_fp32"], rel=1e-3)
    assert [o.name for o in steps.outputs] == [o.name for o in decoder.graph.output], "judged once each"


def test_steps_continue_the_cache_of_a_sample(decoder: onnx.ModelProto) -> None:
    session = Session(decoder.SerializeToString(), threads=1)
    ids = DATA[0]["input_ids"]
    expected = in_one_run(decoder, input_ids=ids)
    past = {n: np.zeros((1, 1, 0, 16), np.float32) for n in session.inputs if n.startswith("past")}
    presents = [name.replace("past_key_values", "present") for name in past]
    first = {"input_ids": ids[:, :3], "attention_mask": np.ones_like(ids[:, :3])}
    past = dict(zip(past, session.run({**first, **past}, presents), strict=True))
    model = stepped(session)
    rest = {"input_ids": ids[:, 3:], "attention_mask": np.ones_like(ids)}
    (scores,) = model.run({**rest, **past}, model.outputs[-1:])
    np.testing.assert_allclose(scores, expected[:, 3:], atol=1e-4)


def test_padding_is_no_text(decoder: onnx.ModelProto) -> None:
    padded = [
        {
            "input_ids": np.pad(s["input_ids"], ((0, 0), (0, 3))),
            "attention_mask": np.pad(np.ones((1, 7), int), ((0, 0), (0, 3))),
        }
        for s in DATA
    ]
    values = compared(decoder, decoder, data=padded).comparison.user_metrics
    assert values["perplexity"] == pytest.approx(perplexity(decoder), rel=1e-4)


def test_quantize_judges_by_the_steps(decoder: onnx.ModelProto, tmp_path: Path) -> None:
    options = qtool.Options(
        mode="weight-only", data=DATA, metrics=["perplexity"], gate="none", timing="table", recover="none", threads=1,
        fail_if=["perplexity_drop>1000"],
    )  # fmt: skip
    report = qtool.quantize(decoder, tmp_path / "q.onnx", options).report
    assert report.written
    assert report.comparison.user_metrics["perplexity"] == pytest.approx(
        compared(decoder, tmp_path / "q.onnx").comparison.user_metrics["perplexity"]
    )


def test_reference_outputs_hold_the_steps(decoder: onnx.ModelProto, tmp_path: Path) -> None:
    with_steps, without = tmp_path / "steps.npz", tmp_path / "whole.npz"
    expected = compared(decoder, decoder, save_ref=with_steps).comparison
    compared(decoder, decoder, "perplexity:cache=0", save_ref=without)
    assert compared(ReferenceOutputs(with_steps), decoder).comparison.user_metrics == expected.user_metrics
    assert (
        compared(ReferenceOutputs(with_steps), decoder, "perplexity:cache=0").comparison.sqnr == expected.sqnr
    )
    with pytest.raises(DataError, match="no outputs of single tokens"):
        compared(ReferenceOutputs(without), decoder)


def test_a_cache_that_no_output_continues_is_refused(decoder: onnx.ModelProto) -> None:
    made = onnx.ModelProto.FromString(decoder.SerializeToString())
    del made.graph.output[1:]
    with pytest.raises(ModelError, match="no output continues the cache 'past_key_values"):
        compared(made, made)
    assert compared(made, made, "perplexity:cache=0").comparison.user_metrics["perplexity"] > 1
