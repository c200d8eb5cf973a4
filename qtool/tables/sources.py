"""The kinds of sample sources: a row a kind; data/ has a file for each."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Kind:
    """One kind of sample source.

    Args:
        name: in --calib-format and --data-format.
        summary: the form of SRC.
        suffixes: of the files that hold such samples.
        folders: whether a directory of such files is a source, and not only a file.
        nested: whether subdirectories are read.
        options: the fields of data/reading.py that apply to this kind, and not to all.
        requires: the extra libraries that it needs, by their name for pip with the least version.
        imports: their modules.
    """

    name: str
    summary: str
    suffixes: tuple[str, ...] = ()
    folders: bool = True
    nested: bool = False
    options: frozenset[str] = frozenset()
    requires: tuple[str, ...] = ()
    imports: tuple[str, ...] = ()


LAYOUTS = ("nchw", "nhwc")

# A directory with files of several kinds is of the first kind here: a text among images is a note.
KINDS: dict[str, Kind] = {
    kind.name: kind
    for kind in (
        Kind("npz", "a directory of .npz, one sample a file, keys are input names", (".npz",)),
        Kind("npy", "a directory of .npy, one sample a file, for models of one input", (".npy",)),
        Kind("onnx", "test_data_set_*/input_N.pb, the layout of ONNX's own tests", (".pb",), nested=True),
        Kind(
            "images",
            "a directory of images, with --preset, --mean and --std, or preprocessor_config.json",
            (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".gif", ".ppm", ".pgm"),
            nested=True,
            options=frozenset({"preset", "mean", "std", "resize", "channels"}),
            requires=("pillow>=12.3",),
            imports=("PIL",),
        ),
        Kind(
            "audio",
            "a directory of .wav or .flac, for models of a raw waveform",
            (".wav", ".flac", ".ogg"),
            nested=True,
            options=frozenset({"rate"}),
            requires=("soundfile>=0.12", "soxr>=0.5"),
            imports=("soundfile", "soxr"),
        ),
        Kind("csv", "rows of a .csv: columns to inputs", (".csv",), options=frozenset({"columns"})),
        Kind(
            "parquet",
            "rows of a .parquet: columns to inputs",
            (".parquet",),
            options=frozenset({"columns"}),
            requires=("pyarrow>=18",),
            imports=("pyarrow",),
        ),
        Kind(
            "text",
            ".txt (a text a line) or .jsonl (its field 'text'), with tokenizer.json",
            (".txt", ".jsonl"),
            options=frozenset({"tokenizer", "max_tokens"}),
            requires=("tokenizers>=0.20",),
            imports=("tokenizers",),
        ),
        Kind("polygraphy", "a .json of inputs that Polygraphy saved", (".json",), folders=False),
        Kind(
            "python", "file.py:function, which yields dicts or gives a CalibrationDataReader", folders=False
        ),
        Kind("random", "random:N, random numbers: for speed and plumbing, never for accuracy", folders=False),
    )
}
