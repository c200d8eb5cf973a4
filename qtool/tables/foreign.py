"""Model files of other tools: a row a kind, recognised by its first bytes, with the way to ONNX."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Foreign:
    """A kind of file that is no ONNX model.

    Args:
        name: for the message.
        hint: a command that makes an ONNX model of it, or what else to do; {path} is the file.
        head: a pattern of the first bytes of the file; '' for zip archives.
        member: a pattern of the name of a file in a zip archive.
        contains: bytes that its first megabytes contain.
    """

    name: str
    hint: str
    head: bytes = b""
    member: str = ""
    contains: bytes = b""


_LENGTH = rb"[\x80-\xff]{0,4}[\x00-\x7f]"  # protobuf's length of what follows
_TF = "python -m tf2onnx.convert {option} {{path}} --output model.onnx"
_HUB = "optimum-cli export onnx --model {path} onnx/"
_TORCH = "in Python: torch.onnx.export(model, example_inputs, 'model.onnx', dynamo=True)"
_ORIGINAL = "export the model that it was made from, such as: optimum-cli export onnx --model ORG/NAME onnx/"

# The first row that fits counts.
FILES = (
    Foreign(
        "a PyTorch ExportedProgram",
        "in Python: torch.onnx.export(torch.export.load('{path}'), f='model.onnx')",
        member=r"(.*/)?(archive_format|serialized_exported_program\.json)$",
    ),
    Foreign(
        "a TorchScript model",
        "in Python: torch.onnx.export(torch.jit.load('{path}'), example_inputs, 'model.onnx', dynamo=False)",
        member=r"(.*/)?(constants\.pkl|code/.*)$",
    ),
    Foreign(
        "a PyTorch checkpoint: weights without a graph",
        f"load it into its model; {_TORCH}",
        member=r"(.*/)?data\.pkl$",
    ),
    Foreign(
        "a Keras model",
        "in Python: keras.saving.load_model('{path}').export('model.onnx', format='onnx')",
        member=r"model\.weights\.h5$",
    ),
    Foreign("a Core ML package", _ORIGINAL, member=r"(.*/)?Manifest\.json$"),
    Foreign(
        "a numpy archive: samples and not a model",
        "name the model first, and give samples by --calib or --data",
        member=r".*\.npy$",
    ),
    Foreign("a zip archive", "unpack it, and name the .onnx file in it", member=""),
    Foreign(
        "a PyTorch checkpoint: weights without a graph",
        f"load it into its model; {_TORCH}",
        head=rb"\x80[\x02-\x05]\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19\.",
    ),
    Foreign(
        "a Python pickle",
        "of scikit-learn: skl2onnx.to_onnx(model, X[:1]); of PyTorch: torch.onnx.export",
        head=rb"\x80[\x02-\x05][\x5d\x7d\x8a\x8c\x95(c]",
    ),
    Foreign("a TensorFlow Lite model", _TF.format(option="--tflite"), head=rb".{4}TFL3"),
    Foreign("an onnxruntime .ort model", "name the .onnx file that it was made from", head=rb".{4}ORTM"),
    Foreign(
        "a safetensors file: weights without a graph",
        "optimum-cli export onnx --model FOLDER onnx/, with the folder that also has its config.json",
        head=rb".{6}\x00\x00\s*\{",
    ),
    Foreign("an HDF5 file, as of Keras", _TF.format(option="--keras"), head=rb"\x89HDF\r\n\x1a\n"),
    Foreign("a GGUF model", _ORIGINAL, head=rb"GGUF|ggjt|tjgg|lmgg"),
    Foreign("an OpenVINO model", _ORIGINAL, head=rb"\s*(<\?xml[^>]*>\s*)?<net\b"),
    Foreign(
        "a TensorFlow SavedModel",
        _TF.format(option="--saved-model").replace("{path}", "FOLDER"),
        head=rb"\x08\x01\x12" + _LENGTH + rb"\x0a",
        contains=b"\x22\x05serve",
    ),
    Foreign(
        "a Core ML model",
        _ORIGINAL,
        head=rb"\x08[\x01-\x1f]\x12" + _LENGTH + rb"\x0a" + _LENGTH + rb"\x0a",
    ),
    Foreign(
        "a TensorFlow graph",
        _TF.format(option="--graphdef") + " --inputs NAME:0 --outputs NAME:0",
        head=rb"\x0a" + _LENGTH + rb"\x0a",
    ),
    Foreign(
        "a PaddlePaddle model",
        "paddle2onnx --model_dir FOLDER --model_filename {path} --save_file model.onnx",
        head=rb"\x0a" + _LENGTH + rb"\x08\x00",
    ),
    Foreign("a git-lfs pointer, not the model", "git lfs pull", head=rb"version https://git-lfs"),
    Foreign("a web page", "did the download fail, or ask for a login?", head=rb"(?i)\s*<(!doctype|html)"),
    Foreign("a gzip archive", "unpack it, and name the .onnx file in it", head=rb"\x1f\x8b"),
)

# A file in a folder -> what the folder is.
FOLDERS = {
    "saved_model.pb": Foreign("a TensorFlow SavedModel", _TF.format(option="--saved-model")),
    "Manifest.json": Foreign("a Core ML package", _ORIGINAL),
    "config.json": Foreign("a folder of Hugging Face", _HUB),
}
HUB = Foreign("a model of the Hugging Face hub", _HUB)
