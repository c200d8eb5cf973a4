"""The inputs that a decoder's samples may lack: an empty cache, a mask, positions."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from qtool.data.decoder_inputs import cache_axes
from qtool.data.model_inputs import Axis, ModelInput
from tests.data.helpers import arrays, source
from tests.data.tokenizers import save

CACHE = ("batch", 2, "past", 8)


def decoder(**others: ModelInput) -> dict[str, ModelInput]:
    inputs = {
        "input_ids": ModelInput("input_ids", ("batch", "new"), "int64"),
        "past_key_values.0.key": ModelInput("past_key_values.0.key", CACHE, "float16"),
    }
    return inputs | others


@pytest.mark.parametrize(
    ("name", "shape", "axis"),
    [
        ("past_key_values.0.key", CACHE, 2),
        ("past_key_values.11.decoder.value", (None, 8, None, 64), 2),
        ("past_0", (2, "batch_size", 4, "past_sequence_length", 16), 3),
        ("past_key_self_0", (1, 2, "n", 8), 2),
        ("past_conv.3", ("batch", 64, 3), None),
    ],
)
def test_a_cache_is_known_by_name_and_shape(name: str, shape: tuple[Axis, ...], axis: int | None) -> None:
    assert cache_axes({name: ModelInput(name, shape, "float32")}) == {name: axis}


@pytest.mark.parametrize("name", ["past_sequence_length", "passed.0.key", "state.0"])
def test_other_inputs_are_no_caches(name: str) -> None:
    shape = (1,) if name.startswith("past") else CACHE
    assert cache_axes({name: ModelInput(name, shape, "float32")}) == {}


def test_token_ids_alone_stand_for_a_text_from_its_start(tmp_path: Path) -> None:
    inputs = decoder(
        attention_mask=ModelInput("attention_mask", ("batch", "total"), "int64"),
        position_ids=ModelInput("position_ids", ("batch", "new"), "int64"),
        seqlens_k=ModelInput("seqlens_k", ("batch",), "int32"),
        use_cache_branch=ModelInput("use_cache_branch", (1,), "bool"),
    )
    np.save(tmp_path / "a.npy", np.arange(5)[None])
    (made,) = arrays(source(str(tmp_path), inputs))
    assert made["past_key_values.0.key"].shape == (1, 2, 0, 8)
    assert made["past_key_values.0.key"].dtype == np.float16
    expected = {
        "attention_mask": [[1] * 5], "position_ids": [[0, 1, 2, 3, 4]], "seqlens_k": [4], "use_cache_branch": [False],
    }  # fmt: skip
    assert {name: made[name].tolist() for name in expected} == expected


def test_a_cache_that_a_sample_brings_is_kept() -> None:
    mask = ModelInput("attention_mask", ("batch", "total"), "int64")
    past = np.ones((1, 2, 3, 8), np.float16)
    sample = {"input_ids": np.array([[7, 8]]), "past_key_values.0.key": past}
    (made,) = arrays(source([sample], decoder(attention_mask=mask)))
    assert np.array_equal(made["past_key_values.0.key"], past)
    assert made["attention_mask"].tolist() == [[1] * 5]


def test_texts_are_tokenized_for_a_decoder(tmp_path: Path) -> None:
    (tmp_path / "t.txt").write_text("the cat\n")
    (made,) = arrays(
        source(str(tmp_path / "t.txt"), decoder(), tokenizer=str(save(tmp_path) / "tokenizer.json"))
    )
    assert made["input_ids"].tolist() == [[1, 3, 4, 2]]
    assert made["past_key_values.0.key"].shape == (1, 2, 0, 8)


def test_nothing_is_made_up_for_models_without_a_cache() -> None:
    inputs = {
        "input_ids": ModelInput("input_ids", (1, "n"), "int64"),
        "attention_mask": ModelInput("attention_mask", (1, "n"), "int64"),
    }
    (made,) = arrays(source([{"input_ids": np.array([[1]])}], inputs))
    assert list(made) == ["input_ids"]
