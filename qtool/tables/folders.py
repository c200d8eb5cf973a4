"""Folders of models, as optimum, onnxruntime-genai, sherpa-onnx and sentence-transformers export them."""

from __future__ import annotations

import re
from dataclasses import dataclass

MODEL = "model"
ENCODER = "encoder"
DECODER = "decoder"
PAST = "decoder_with_past"
MERGED = "decoder_merged"


@dataclass(frozen=True)
class Role:
    """The part that a model has in its folder.

    Args:
        name: in reports, and of the folder with its samples.
        pattern: of the file's name without suffix, or else of its folder's name.
    """

    name: str
    pattern: str


# The first row that fits counts; a model that fits none is a `model`.
ROLES = (
    Role(PAST, r"decoder.*with_past"),
    Role(MERGED, r"decoder.*merged"),
    Role(DECODER, r"decoder"),
    Role(ENCODER, r"encoder"),
    Role("joiner", r"joiner"),
    Role("embedding", r"embed"),
    Role("vocoder", r"vocoder"),
    Role("unet", r"unet|transformer$"),
)

# An output of an encoder -> the input of a decoder that takes it. The caches of a decoder begin with the one
# name where they come out, and with the other where they go in.
FED = {"last_hidden_state": "encoder_hidden_states"}
PRESENT, CACHE = "present", "past_key_values"

# The end of the name of a model that was made of the one without it, such as model_quantized, model_fp16,
# encoder.int8, model_qint8_avx512_vnni, model_O3.
TWIN = re.compile(
    r"[._-](quantized|optimized|dynamic|u?int[48]|q[1248](f16)?|fp16|bf16|float16|bnb4|qu?int8([_-]\w+)?|O[1-4])$"
)

# The weights of a model in a file of their own, as exporters name it; the group is the model.
SIDE_FILE = re.compile(r"(.*\.onnx)[._]data(_\d+)?")


@dataclass(frozen=True)
class LeftOut:
    """Files that are not carried over.

    Args:
        pattern: of the whole name.
        why: for the report.
        of_a_model: only where a model lies in its folder or below: other parts of a pipeline, such as a dense
            layer of sentence-transformers, are no ONNX models and need their weights.
    """

    pattern: str
    why: str
    of_a_model: bool = False


LEFT_OUT = (
    LeftOut(SIDE_FILE.pattern, "weights that no model here refers to"),
    LeftOut(r".*\.safetensors(\.index\.json)?", "FP32 weights for PyTorch", of_a_model=True),
    LeftOut(
        r"(pytorch_model|model|consolidated).*\.(bin|pt|pth)(\.index\.json)?",
        "FP32 weights for PyTorch",
        of_a_model=True,
    ),
    LeftOut(r"tf_model.*\.h5(\.index\.json)?", "FP32 weights for TensorFlow", of_a_model=True),
    LeftOut(r"flax_model.*\.msgpack(\.index\.json)?", "FP32 weights for Flax", of_a_model=True),
    LeftOut(r"openvino_model.*\.(xml|bin)", "the model for OpenVINO"),
    LeftOut(r".*\.ort", "the model in another format"),
    LeftOut(r"ort_config\.json", "how optimum made the files that are quantized anew here"),
)

# A configuration that names files -> the key that does.
FILE_KEYS = {"genai_config.json": "filename"}


def role_of(stem: str, folder: str) -> str:
    """Return the role of a model by its file's name without suffix, or by the name of its folder."""
    for name in (stem, folder):
        for role in ROLES:
            if re.search(role.pattern, name, re.IGNORECASE):
                return role.name
    return MODEL
