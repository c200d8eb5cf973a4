"""Folders as sherpa-onnx and sentence-transformers have them: their libraries open what was made of them.

Skipped where these are missing: they are in no lock. `pip install sherpa-onnx sentence-transformers`.
"""

from __future__ import annotations

import os
import re
from dataclasses import replace
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
import transformers
from onnx import numpy_helper
from optimum.exporters.onnx import main_export

import qtool
from tests.graphs import rng, write_samples
from tests.torch.test_folders import WORDS, save

sherpa_onnx = pytest.importorskip("sherpa_onnx")
sentence_transformers = pytest.importorskip("sentence_transformers")
pytestmark = pytest.mark.filterwarnings("default")

FAST = qtool.Options(mode="weight-only", gate="none", timing="table", effort="fast")

# A transducer for one second of sound, with what sherpa-onnx reads from the metadata.
ENCODER = """<ir_version: 8, opset_import: ["": 17]>
encoder (float[N, T, 80] x, int64[N] x_lens) => (float[N, U, 24] encoder_out, int64[N] encoder_out_lens) {
    bands = Transpose <perm = [0, 2, 1]> (x)
    first = Conv <kernel_shape = [3], pads = [1, 1], strides = [2]> (bands, w80x64x3)
    one = Relu (first)
    second = Conv <kernel_shape = [3], pads = [1, 1], strides = [2]> (one, w64x32x3)
    two = Relu (second)
    frames = Transpose <perm = [0, 2, 1]> (two)
    encoder_out = MatMul (frames, w32x24)
    four = Constant <value = int64 {4}> ()
    three = Constant <value = int64 {3}> ()
    longer = Add (x_lens, three)
    encoder_out_lens = Div (longer, four)
}"""
DECODER = """<ir_version: 8, opset_import: ["": 17]>
decoder (int64[N, 2] y) => (float[N, 24] decoder_out) {
    rows = Gather (w16x32, y)
    both = Flatten <axis = 1> (rows)
    product = MatMul (both, w64x24)
    decoder_out = Relu (product)
}"""
JOINER = """<ir_version: 8, opset_import: ["": 17]>
joiner (float[N, 24] encoder_out, float[N, 24] decoder_out) => (float[N, 16] logit) {
    sum = Add (encoder_out, decoder_out)
    squashed = Tanh (sum)
    logit = MatMul (squashed, w24x16)
}"""
SCALES = {"encoder": 0.3, "decoder": 2, "joiner": 3}
METADATA = {
    "encoder": {"model_type": "zipformer2", "version": "1"},
    "decoder": {"vocab_size": "16", "context_size": "2"},
    "joiner": {"joiner_dim": "24"},
}


def transducer(folder: Path) -> None:
    folder.mkdir()
    random = rng()
    for role, text in (("encoder", ENCODER), ("decoder", DECODER), ("joiner", JOINER)):
        proto = onnx.parser.parse_model(text)
        for name in sorted({i for n in proto.graph.node for i in n.input if re.fullmatch(r"w[0-9x]+", i)}):
            shape = [int(size) for size in name[1:].split("x")]
            if len(shape) == 3:  # of a convolution: output channels first
                shape[:2] = shape[1::-1]
            array = SCALES[role] * random.standard_normal(shape) / np.sqrt(max(shape))
            proto.graph.initializer.append(numpy_helper.from_array(array.astype(np.float32), name))
        for key, value in METADATA[role].items():
            proto.metadata_props.add(key=key, value=value)
        for end in ("", ".int8"):
            onnx.save(proto, folder / f"{role}-epoch-99-avg-1{end}.onnx")
    words = ["<blk>", "<sos/eos>", "<unk>", *"abcdefghijklm"]
    (folder / "tokens.txt").write_text("".join(f"{word} {i}\n" for i, word in enumerate(words)))
    (folder / "bpe.model").write_bytes(b"pieces")


def said(folder: Path) -> str:
    files = {role: str(folder / f"{role}-epoch-99-avg-1.onnx") for role in METADATA}
    opened = sherpa_onnx.OfflineRecognizer.from_transducer(
        **files, tokens=str(folder / "tokens.txt"), num_threads=1
    )
    stream = opened.create_stream()
    seconds = np.arange(16000, dtype=np.float32) / 16000
    stream.accept_waveform(16000, np.sin(2000 * seconds * (1 + seconds)))
    opened.decode_stream(stream)
    return str(stream.result.text)


def test_sherpa_runs_a_quantized_folder(tmp_path: Path) -> None:
    transducer(tmp_path / "export")
    random = rng(1)
    features = {"x": random.standard_normal((1, 60, 80)).astype(np.float32), "x_lens": np.array([60])}
    made = {
        "encoder": features,
        "decoder": {"y": np.array([[3, 9]])},
        "joiner": {
            k: random.standard_normal((1, 24)).astype(np.float32) for k in ("encoder_out", "decoder_out")
        },
    }
    for role, sample in made.items():
        write_samples(tmp_path / "samples" / role, [sample] * 4)
    report = qtool.quantize_folder(
        tmp_path / "export", tmp_path / "q", replace(FAST, data=tmp_path / "samples")
    )
    assert {row.role for row in report.rows} == METADATA.keys()
    assert all(row.report.comparison.sqnr > 30 for row in report.rows)
    assert {*report.sidecars} == {"bpe.model", "tokens.txt"}
    assert len(report.left_out) == 3  # the int8 twins
    text = said(tmp_path / "q")
    assert len({*text}) > 3
    assert text == said(tmp_path / "export")


def test_sentence_transformers_runs_a_quantized_folder(tmp_path: Path) -> None:
    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=WORDS, hidden_size=64, num_hidden_layers=1, num_attention_heads=4, intermediate_size=128,
        max_position_embeddings=64,
    )  # fmt: skip
    save(transformers.BertModel(config), tmp_path / "torch")
    folder = tmp_path / "export"
    parts = pytest.importorskip("sentence_transformers.sentence_transformer.modules")
    SentenceTransformer = sentence_transformers.SentenceTransformer  # noqa: N806
    SentenceTransformer(modules=[parts.Transformer(str(tmp_path / "torch")), parts.Pooling(64)]).save(
        str(folder)
    )
    main_export(str(tmp_path / "torch"), tmp_path / "onnx", task="feature-extraction", do_validation=False)
    (folder / "onnx").mkdir()
    (tmp_path / "onnx/model.onnx").rename(folder / "onnx/model.onnx")
    (tmp_path / "texts.txt").write_text("".join(f"w{i} w{i + 1} w{2 * i}\n" for i in range(3, 15)))
    report = qtool.quantize_folder(folder, tmp_path / "q", replace(FAST, data=tmp_path / "texts.txt"))
    assert report.rows[0].report.comparison.sqnr > 30
    assert {"modules.json", "1_Pooling/config.json", "tokenizer.json"} <= {*report.sidecars}
    opened = SentenceTransformer(str(tmp_path / "q"), backend="onnx")
    tokens = opened.tokenizer(["w3 w4 w6"], return_tensors="np")
    session = ort.InferenceSession(tmp_path / "q/onnx/model.onnx")
    feeds = {value.name: tokens[value.name] for value in session.get_inputs()}
    np.testing.assert_allclose(opened.encode(["w3 w4 w6"]), session.run(None, feeds)[0].mean(1), rtol=1e-5)
