"""Exports of optimum, onnxruntime-genai, sherpa-onnx and sentence-transformers, quantized as folders: their
libraries open the result, and it says what the graphs say by themselves."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"

import numpy as np
import onnxruntime as ort
import onnxruntime_genai
import pytest
import torch
import transformers
from optimum.exporters.onnx import main_export
from optimum.onnxruntime import ORTModelForSeq2SeqLM
from tokenizers import Tokenizer, models, pre_tokenizers

import qtool

# The builder names models of transformers 5 as it is imported; optimum-onnx 0.1 needs transformers 4, and puts
# another module in its place.
for name in ("Qwen3_5ForConditionalGeneration", "Qwen3_5MoeForConditionalGeneration"):
    vars(sys.modules["transformers"]).setdefault(name, None)
from onnxruntime_genai.models import builder  # noqa: E402

pytestmark = pytest.mark.filterwarnings("default")

WORDS, EOS, STEPS = 128, 1, 32
PROMPT = [5, 9, 17, 30]


def save(model: transformers.PreTrainedModel, folder: Path) -> None:
    """Save a model with random weights and a tokenizer of whole words."""
    words = ["<pad>", "</s>", "<unk>", *(f"w{i}" for i in range(3, WORDS))]
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    model.eval().save_pretrained(folder)
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", eos_token="</s>", unk_token="<unk>"
    ).save_pretrained(folder)


def greedy(logits: np.ndarray) -> int:
    """The best token but the end, which random weights may give at once."""
    last = logits[0, -1].copy()
    last[EOS] = -np.inf
    return int(last.argmax())


def sessions(folder: Path) -> dict[str, ort.InferenceSession]:
    return {path.stem: ort.InferenceSession(path) for path in folder.glob("*.onnx")}


def run(session: ort.InferenceSession, feeds: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    wanted = [value.name for value in session.get_inputs()]
    return dict(
        zip(
            [v.name for v in session.get_outputs()],
            session.run(None, {n: feeds[n] for n in wanted}),
            strict=True,
        )
    )


@pytest.fixture(scope="module")
def t5(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("t5")
    config = transformers.T5Config(
        vocab_size=WORDS, d_model=64, d_kv=16, d_ff=128, num_layers=1, num_heads=4, decoder_start_token_id=0,
        tie_word_embeddings=False,
    )  # fmt: skip
    save(transformers.T5ForConditionalGeneration(config), folder / "torch")
    main_export(
        str(folder / "torch"), folder / "onnx", task="text2text-generation-with-past", do_validation=False
    )
    return folder / "onnx"


@pytest.mark.parametrize(
    ("mode", "merged"), [("dynamic", True), ("weight-only", True), ("weight-only", False)]
)
def test_optimum_runs_a_quantized_folder(t5: Path, tmp_path: Path, mode: str, merged: bool) -> None:
    """A merged decoder has an If, and weights that both of its branches read."""
    folder = shutil.copytree(t5, tmp_path / "export")
    for name in ("decoder_model", "decoder_with_past_model") if merged else ("decoder_model_merged",):
        (folder / f"{name}.onnx").unlink()
    (tmp_path / "texts.txt").write_text("".join(f"w{i} w{i + 1} w{2 * i}\n" for i in range(3, 15)))
    options = qtool.Options(
        mode=mode, gate="none", timing="table", effort="fast", data=tmp_path / "texts.txt"
    )
    report = qtool.quantize_folder(folder, tmp_path / "q", options)
    roles = {"decoder_merged"} if merged else {"decoder", "decoder_with_past"}
    assert {row.role for row in report.rows} == {"encoder", *roles}
    assert all(row.report.quantized_nodes and row.report.comparison.sqnr > 12 for row in report.rows)
    opened = ORTModelForSeq2SeqLM.from_pretrained(tmp_path / "q", use_merged=merged)
    said = opened.generate(
        torch.tensor([PROMPT]), max_new_tokens=STEPS, min_new_tokens=STEPS, do_sample=False
    )[0, 1:].tolist()
    assert len({*said}) > 1  # or the cache would not matter
    assert said == list(decoded(sessions(tmp_path / "q")))


def decoded(graphs: dict[str, ort.InferenceSession]) -> Iterator[int]:
    """Yield what the graphs say by themselves."""
    ids = np.array([PROMPT], np.int64)
    mask = np.ones_like(ids)
    hidden = run(graphs["encoder_model"], {"input_ids": ids, "attention_mask": mask})["last_hidden_state"]
    feeds = {
        "encoder_attention_mask": mask,
        "encoder_hidden_states": hidden,
        "input_ids": np.zeros((1, 1), np.int64),
    }
    merged = graphs.get("decoder_model_merged")
    graph = merged or graphs["decoder_model"]
    if merged:  # an empty cache
        empty = {v.name: np.zeros((1, 4, 0, 16), np.float32) for v in merged.get_inputs() if "past" in v.name}
        feeds |= empty | {"use_cache_branch": np.array([False])}
    for _ in range(STEPS):
        outputs = run(graph, feeds)
        cache = {n.replace("present", "past_key_values"): v for n, v in outputs.items() if n != "logits"}
        # With a cache, a merged decoder gives an empty one of the encoder: the first one stays.
        feeds |= {n: v for n, v in cache.items() if v.size}
        feeds["input_ids"] = np.array([[greedy(outputs["logits"])]])
        yield int(feeds["input_ids"][0, 0])
        feeds["use_cache_branch"] = np.array([True])
        graph = merged or graphs["decoder_with_past_model"]


@pytest.fixture(scope="module")
def genai(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("genai")
    config = transformers.LlamaConfig(
        vocab_size=WORDS, hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, head_dim=16, max_position_embeddings=256, bos_token_id=EOS, eos_token_id=EOS,
        pad_token_id=0, rope_scaling={"rope_type": "default"},
    )  # fmt: skip
    save(transformers.LlamaForCausalLM(config), folder / "torch")
    place = ("", str(folder / "torch"), str(folder / "onnx"), "fp32", "cpu", str(folder / "cache"))
    builder.create_model(*place, **builder.parse_extra_options(*place, []))
    return folder / "onnx"


def test_genai_runs_a_quantized_folder(genai: Path, tmp_path: Path) -> None:
    options = qtool.Options(mode="weight-only", bits=4, prefer="speed", timing="table", gate="none")
    report = qtool.quantize_folder(genai, tmp_path / "q", options)
    assert "genai_config.json" in report.sidecars
    assert report.rows[0].report.quantized_nodes
    opened = onnxruntime_genai.Model(str(tmp_path / "q"))
    search = onnxruntime_genai.GeneratorParams(opened)
    length = len(PROMPT) + STEPS
    search.set_search_options(max_length=length, min_length=length, do_sample=False)
    generator = onnxruntime_genai.Generator(opened, search)
    generator.append_tokens(PROMPT)
    while not generator.is_done():
        generator.generate_next_token()
    (graph,) = sessions(tmp_path / "q").values()
    words = list(PROMPT)
    feeds = {
        v.name: np.zeros((1, 2, 0, 16), np.float32) for v in graph.get_inputs() if v.name.startswith("past")
    }
    feeds["input_ids"] = np.array([PROMPT], np.int64)
    for _ in range(STEPS):
        feeds["attention_mask"] = np.ones((1, len(words)), np.int64)
        outputs = run(graph, feeds)
        feeds |= {n.replace("present", "past_key_values"): v for n, v in outputs.items() if n != "logits"}
        words.append(greedy(outputs["logits"]))
        feeds["input_ids"] = np.array([words[-1:]], np.int64)
    assert generator.get_sequence(0).tolist() == words
