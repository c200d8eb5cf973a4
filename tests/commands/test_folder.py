"""Folders of models: what is quantized, carried over, left out, shared and refused."""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import numpy_helper
from rich.console import Console

from qtool import (
    Comparing,
    ModelError,
    Options,
    QtoolError,
    UsageError,
    compare_folders,
    quantize,
    quantize_folder,
)
from qtool.commands.folder import FolderReport, FolderRow
from qtool.commands.folder_files import files_of
from qtool.commands.folder_samples import options_for
from qtool.report.folder import FOLDER, render_folder
from qtool.report.formats import FOLDER_FORMATS, rendered
from qtool.tables.folders import role_of
from tests.data import tokenizers
from tests.graphs import model, node, rng, weights, write_samples
from tests.test_docs import section

SMALL = Options(mode="weight-only", gate="none", timing="table")
W = rng().standard_normal((64, 64)).astype(np.float32)


def tiny(seed: int) -> onnx.ModelProto:
    """A product with the weight that all models here have, and one with a weight of its own."""
    own = rng(seed).standard_normal((64, 32)).astype(np.float32)
    nodes = [node("MatMul", ["x", "w"], ["h"]), node("MatMul", ["h", "own"], ["y"])]
    return model(nodes, {"x": ["batch", 64]}, ["y"], {"w": W, "own": own})


def files_in(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.fixture
def export(tmp_path: Path) -> Path:
    """An encoder and a decoder with one side file, a twin of each, and files beside them."""
    folder = tmp_path / "export"
    (folder / "1_Pooling").mkdir(parents=True)
    for seed, name in enumerate(("encoder_model", "decoder_model"), start=1):
        onnx.save(
            tiny(seed),
            folder / f"{name}.onnx",
            save_as_external_data=True,
            location=f"{name}.data",
            size_threshold=9000,
        )
    shutil.copy(folder / "encoder_model.onnx", folder / "encoder_model.int8.onnx")
    onnx.save(tiny(2), folder / "decoder_model_fp16.onnx")
    (folder / "genai_config.json").write_text(
        '{"model": {"decoder": {"filename": "decoder_model_fp16.onnx"}}}'
    )
    (folder / "tokenizer.json").write_text("{}")
    (folder / "1_Pooling" / "config.json").write_text("{}")
    (folder / "1_Pooling" / "model.safetensors").write_bytes(b"of a layer that is no ONNX model")
    (folder / "model.safetensors").write_bytes(b"weights")
    return folder


def test_a_folder_comes_out_whole(export: Path, tmp_path: Path) -> None:
    before, output = files_in(export), tmp_path / "small"
    report = quantize_folder(export, output, SMALL)
    assert files_in(export) == before
    side = report.shared[0]
    models = {"encoder_model.onnx": "encoder", "decoder_model.onnx": "decoder"}
    assert {row.name: row.role for row in report.rows} == models
    sidecars = {"genai_config.json", "tokenizer.json", "1_Pooling/config.json", "1_Pooling/model.safetensors"}
    assert files_in(output).keys() == {*models, *sidecars, side}
    assert {*report.sidecars} == sidecars
    assert report.left_out.keys() == {
        "encoder_model.int8.onnx",
        "decoder_model_fp16.onnx",
        "model.safetensors",
    }
    assert (
        json.loads((output / "genai_config.json").read_text())["model"]["decoder"]["filename"]
        == "decoder_model.onnx"
    )
    assert report.written and report.ok and not list(tmp_path.glob(".qtool*"))
    # The weight is there once, and each model gives what it gives when it is quantized by itself.
    assert report.saved == W.size <= report.output_bytes < 2 * W.size + 8000
    x = rng(2).standard_normal((3, 64)).astype(np.float32)
    for name in models:
        quantize(export / name, tmp_path / name, SMALL)
        alone, shared = (ort.InferenceSession(f / name).run(None, {"x": x})[0] for f in (tmp_path, output))
        np.testing.assert_array_equal(alone, shared)
        assert str(output) in next(r.report.quantized.path for r in report.rows if r.name == name)  # type: ignore[union-attr]


def test_every_format_has_every_model_and_the_json_is_described(export: Path, tmp_path: Path) -> None:
    report = quantize_folder(export, tmp_path / "small", SMALL)
    out = io.StringIO()
    render_folder(report, Console(file=out, width=200))
    for text in (out.getvalue(), *(rendered(report, name, FOLDER_FORMATS) for name in FOLDER_FORMATS)):
        assert "encoder" in text and "Pooling" in text and "safetensors" in text
    text = FOLDER.to_json(report)  # compared as text: nan is no equal of itself
    assert FOLDER.to_json(FOLDER.from_json(text, "run.json")) == text
    described = section("report.md", "`quantize FOLDER --json`")
    names = {f.name for part in (FolderReport, FolderRow) for f in fields(part)}
    assert [n for n in names if f"`{n}`" not in described.replace("[]`", "`")] == []


def test_a_failed_gate_and_a_dry_run_leave_nothing(export: Path, tmp_path: Path) -> None:
    samples = write_samples(tmp_path / "samples", [{"x": W[i : i + 1]} for i in range(8)])
    failing = replace(SMALL, data=samples, fail_if=["size>0.01"])
    report = quantize_folder(export, tmp_path / "small", failing)
    assert len(report.failed) == 2 and not report.written
    dry = quantize_folder(export, None, SMALL)
    assert [row.report.quantized_nodes for row in dry.rows] == [2, 2]
    assert {p.name for p in tmp_path.iterdir()} == {"export", "samples"}


def test_samples_are_of_a_role_where_they_have_its_name(export: Path, tmp_path: Path) -> None:
    for name in ("encoder_model", "decoder"):
        write_samples(tmp_path / "samples" / name, [{"x": W[i : i + 1]} for i in range(4 + len(name))])
    data = replace(SMALL, data=tmp_path / "samples")
    report = quantize_folder(export, tmp_path / "small", data)
    counts = {row.role: row.report.comparison.samples for row in report.rows if row.report.comparison}
    assert counts["encoder"] > counts["decoder"]


@pytest.mark.parametrize("below", ["", "onnx/"])
def test_an_earlier_result_is_replaced_and_nothing_else(export: Path, tmp_path: Path, below: str) -> None:
    root, output = tmp_path / "root", tmp_path / "small"
    shutil.move(export, root / below)
    quantize_folder(root, output, SMALL)
    first = files_in(output)
    (root / below / "tokenizer.json").write_text("[]")
    (output / below / "encoder_model.onnx").write_bytes(b"old")
    quantize_folder(root, output, replace(SMALL, force=True))
    assert files_in(output) == first | {f"{below}tokenizer.json": b"[]"}


def test_models_of_the_same_name_are_compared(export: Path, tmp_path: Path) -> None:
    samples = write_samples(tmp_path / "samples", [{"x": W[i : i + 1]} for i in range(4)])
    quantize_folder(export, tmp_path / "small", SMALL)
    report = compare_folders(export, tmp_path / "small", samples, Comparing(gate="none"))
    errors = {row.role: row.report.comparison.sqnr for row in report.rows if row.report.comparison}
    assert errors.keys() == {"encoder", "decoder"} and all(20 < sqnr < 80 for sqnr in errors.values())
    assert report.ok and report.output_bytes < report.source_bytes
    with pytest.raises(UsageError, match="save_ref is of one model"):
        compare_folders(export, tmp_path / "small", samples, Comparing(save_ref=tmp_path / "ref.npz"))
    (tmp_path / "small" / "decoder_model.onnx").unlink()
    with pytest.raises(UsageError, match="has no decoder_model.onnx"):
        compare_folders(export, tmp_path / "small", samples)


ENCODER = """<ir_version: 8, opset_import: ["": 17]>
encoder (int64[batch, tokens] input_ids, int64[batch, tokens] attention_mask)
    => (float[batch, tokens, 8] last_hidden_state) {
    embedded = Gather (table, input_ids)
    last_hidden_state = MatMul (embedded, square)
}"""
MERGED = """<ir_version: 8, opset_import: ["": 17]>
decoder (int64[batch, tokens] input_ids, float[batch, heard, 8] encoder_hidden_states,
         float[batch, 1, past, 8] past_key_values_0_key, bool[1] use_cache_branch)
    => (float[batch, tokens, 9] logits, float[batch, 1, all, 8] present_0_key) {
    embedded = Gather (table, input_ids)
    context = ReduceMean <axes = [1]> (encoder_hidden_states)
    x = Add (embedded, context)
    key = Unsqueeze (x, one)
    present_0_key = If (use_cache_branch) <
        then_branch = then () => (float[batch, 1, all, 8] both) {
            both = Concat <axis = 2> (past_key_values_0_key, key)
        },
        else_branch = without () => (float[batch, 1, all, 8] alone) { alone = Identity (key) }
    >
    seen = ReduceMean <axes = [2], keepdims = 0> (present_0_key)
    y = Add (x, seen)
    logits = MatMul (y, wide)
}"""


SOUND = """<ir_version: 8, opset_import: ["": 17]>
encoder (float[batch, tokens, 8] sound) => (float[batch, tokens, 8] last_hidden_state) {
    last_hidden_state = MatMul (sound, square)
}"""


def save_models(folder: Path, encoder: str) -> None:
    """An encoder and a merged decoder."""
    constants = {
        "table": weights(9, 8),
        "square": weights(8, 8),
        "wide": weights(8, 9),
        "one": np.array([1]),
    }
    for name, text in (("encoder_model", encoder), ("decoder_model_merged", MERGED)):
        proto = onnx.parser.parse_model(text)
        proto.graph.initializer.extend(
            numpy_helper.from_array(array, key) for key, array in constants.items() if key in text
        )
        onnx.save(proto, folder / f"{name}.onnx")


def test_a_decoder_speaks_of_samples_that_are_no_texts(tmp_path: Path) -> None:
    folder = tmp_path / "export"
    folder.mkdir()
    save_models(folder, SOUND)
    (folder / "config.json").write_text('{"decoder_start_token_id": 7, "eos_token_id": 99}')
    data = write_samples(tmp_path / "samples", [{"sound": weights(1, 6, 8, seed=i)} for i in range(8)])
    files = files_of(folder)
    merged = next(model for model in files.models if model.role == "decoder_merged")
    samples = list(options_for(files, merged, replace(SMALL, data=data)).data)  # type: ignore[arg-type]
    assert [sample["past_key_values_0_key"].shape[2] for sample in samples] == [0] * 4 + [16] * 4
    session = ort.InferenceSession(folder / "decoder_model_merged.onnx")
    said = samples[0]["input_ids"]
    assert said.shape == (1, 16) and said[0, 0] == 7
    for length in range(1, 16):
        (logits,) = session.run(["logits"], {**samples[0], "input_ids": said[:, :length]})
        assert logits[0, -1].argmax() == said[0, length]


def test_a_merged_decoder_has_samples_for_both_of_its_branches(tmp_path: Path) -> None:
    folder, texts = tokenizers.save(tmp_path / "export"), tmp_path / "texts.txt"
    save_models(folder, ENCODER)
    (folder / "config.json").write_text('{"decoder_start_token_id": 7}')
    texts.write_text("the cat sat\n" * 16)
    options = replace(SMALL, mode="dynamic", data=texts)
    files = files_of(folder)
    merged = next(model for model in files.models if model.role == "decoder_merged")
    samples = list(options_for(files, merged, options).data)  # type: ignore[arg-type]
    assert len(samples) == 16
    ids = [1, 3, 4, 5, 2]  # [CLS] the cat sat [SEP]
    for number, sample in enumerate(samples):
        cached = number % 8 >= 4
        assert sample["use_cache_branch"].tolist() == [cached]
        assert sample["input_ids"].tolist() == [ids[-1:] if cached else [7, *ids[:-1]]]
        assert sample["past_key_values_0_key"].shape == (1, 1, 5 if cached else 0, 8)
    report = quantize_folder(folder, tmp_path / "small", options)
    assert all(row.report.comparison for row in report.rows)


def lies_in_the_input(export: Path, other: Path) -> Options:
    shutil.move(export, other.parent / "away")
    shutil.copytree(other.parent / "away", other / "export")
    export.symlink_to(other / "export")
    return SMALL


def holds_the_users_file(export: Path, other: Path) -> Options:
    other.mkdir()
    (other / "another.onnx").write_bytes(b"mine")
    return replace(SMALL, force=True)


def exists(export: Path, other: Path) -> Options:
    other.mkdir()
    (other / "encoder_model.onnx").write_bytes(b"old")
    return SMALL


def holds_no_model(export: Path, other: Path) -> Options:
    for file in export.glob("*.onnx"):
        file.unlink()
    return SMALL


def links_out(export: Path, other: Path) -> Options:
    (other.parent / "secret").write_text("secret")
    (export / "vocab.txt").symlink_to(other.parent / "secret")
    return SMALL


def is_damaged(export: Path, other: Path) -> Options:
    (export / "decoder_model.onnx").write_bytes(b"\x08\x08\x12")
    return SMALL


MISTAKES: dict[Callable[[Path, Path], Options], tuple[type[QtoolError], str]] = {
    holds_no_model: (ModelError, "holds no .onnx file"),
    lies_in_the_input: (UsageError, "lie in each other"),
    exists: (UsageError, "exists"),
    holds_the_users_file: (UsageError, "another.onnx"),
    links_out: (ModelError, "vocab.txt' is a link out of the folder"),
    is_damaged: (ModelError, "decoder_model.onnx: not a readable"),
    lambda export, other: Options(max_size=5): (UsageError, "max_size is of one model"),
    lambda export, other: Options(): (UsageError, "decoder_model.onnx: mode static needs samples"),
}


@pytest.mark.parametrize("mistake", MISTAKES, ids=lambda mistake: mistake.__name__)
def test_mistakes_are_refused_and_leave_everything_as_it_was(
    mistake: Callable[[Path, Path], Options], export: Path, tmp_path: Path
) -> None:
    kind, message = MISTAKES[mistake]
    options = mistake(export, tmp_path / "small")
    before = files_in(tmp_path)
    with pytest.raises(kind) as refused:
        quantize_folder(export, tmp_path / "small", options)
    assert message in str(refused.value)
    assert files_in(tmp_path) == before


def test_links_into_the_cache_of_the_hub_are_followed(export: Path, tmp_path: Path) -> None:
    blobs, snapshot = tmp_path / "models--a--b" / "blobs", tmp_path / "models--a--b" / "snapshots" / "1f"
    blobs.mkdir(parents=True)
    snapshot.mkdir(parents=True)
    onnx.save(tiny(1), blobs / "aa")
    (blobs / "bb").write_text('{"filename": "model_fp16.onnx"}')
    for name in ("model.onnx", "model_fp16.onnx"):
        (snapshot / name).symlink_to("../../blobs/aa")
    (snapshot / "genai_config.json").symlink_to("../../blobs/bb")
    quantize_folder(snapshot, tmp_path / "small", SMALL)
    written = files_in(tmp_path / "small")
    assert written.keys() == {"model.onnx", "genai_config.json"}
    assert json.loads(written["genai_config.json"]) == {"filename": "model.onnx"}
    assert not any(path.is_symlink() for path in (tmp_path / "small").iterdir())


@pytest.mark.parametrize(
    ("stem", "folder", "role"),
    [
        ("decoder_with_past_model", "", "decoder_with_past"),
        ("decoder_model_merged", "onnx", "decoder_merged"),
        ("encoder-epoch-99-avg-1", "", "encoder"),
        ("model", "vae_decoder", "decoder"),
        ("model", "unet", "unet"),
        ("model", "onnx", "model"),
    ],
)
def test_names_tell_roles(stem: str, folder: str, role: str) -> None:
    assert role_of(stem, folder) == role
