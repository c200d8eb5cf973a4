"""Fine-tune the sample CNN with PyTorch's quantization-aware training, and export it with QuantizeLinear.

    python sample_models/qat.py fbgemm cnn.qat.onnx       # FX graph mode: u8 activations of 7 bits
    python sample_models/qat.py x86 cnn.qat.onnx          # PT2E: u8 activations, no Q behind a Conv
    python sample_models/qat.py xnnpack cnn.qat.onnx      # PT2E: s8 activations, symmetric s8 weights

Needs torch, torchao, onnxscript, scikit-learn, onnx, onnxruntime, numpy and pillow. Seeded.
The files that PyTorch writes are what `qtool quantize` takes further (docs/pytorch-hugging-face.md).
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

import onnx
import torch
import torch.nn.functional as F
from networks import Cnn
from onnx import numpy_helper
from torch import nn
from train import HERE, SEED, SPECS, augment, load_split, to_unit

EPOCHS, BATCH, RATE = 1, 64, 2e-4


def trained() -> Cnn:
    """The sample CNN with the weights of its file."""
    arrays = {
        t.name: numpy_helper.to_array(t) for t in onnx.load(HERE / "cnn" / "model.onnx").graph.initializer
    }
    names = {
        "bn.weight": "bn_scale",
        "bn.bias": "bn_bias",
        "bn.running_mean": "bn_mean",
        "bn.running_var": "bn_var",
    }
    network = Cnn()
    state = network.state_dict()
    for key in state:
        if key.endswith("num_batches_tracked"):
            continue
        *path, kind, field = key.split(".")
        if kind == "head":
            name = f"head/{field}"
        else:
            path = [f"block{int(path[1]) + 1}", *path[2:]] if path[0] == "blocks" else path
            name = "/".join([*path, names.get(f"{kind}.{field}", "conv_weight")])
        state[key] = torch.from_numpy(arrays[name].copy())
    network.load_state_dict(state)
    return network


def fine_tune(model: nn.Module, epochs: int = EPOCHS) -> None:
    """Train a model with fake quantization on augmented digits for a few epochs."""
    spec = SPECS["cnn"]
    pixels, labels = load_split(32)["train"]
    images, classes = to_unit(pixels), torch.from_numpy(labels)
    optimizer = torch.optim.Adam(model.parameters(), lr=RATE)
    for _ in range(epochs):
        for index in torch.randperm(len(images)).split(BATCH):
            if len(index) < BATCH:
                continue  # PT2E exports one batch size for training
            loss = F.cross_entropy(model(spec.to_input(augment(images[index], spec))), classes[index])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()


def by_fx(backend: str) -> Callable[[Cnn, Path], None]:
    """FX graph mode: a reference model with a Q and DQ around each op."""

    def make(network: Cnn, path: Path) -> None:
        from torch.ao.quantization import get_default_qat_qconfig_mapping
        from torch.ao.quantization.quantize_fx import _convert_to_reference_decomposed_fx, prepare_qat_fx

        mapping = get_default_qat_qconfig_mapping(backend)
        model = prepare_qat_fx(network.train(), mapping, torch.zeros(BATCH, 1, 32, 32))
        fine_tune(model)
        export(_convert_to_reference_decomposed_fx(model.eval()), path)

    return make


def by_pt2e(quantizer: Callable[[], object]) -> Callable[[Cnn, Path], None]:
    """PT2E: quantization of the graph that torch.export gives."""

    def make(network: Cnn, path: Path) -> None:
        from torchao.quantization.pt2e import move_exported_model_to_eval
        from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_qat_pt2e

        shape = {"x": {0: torch.export.Dim("N")}}
        exported = torch.export.export(
            network.train(), (torch.zeros(BATCH, 1, 32, 32),), dynamic_shapes=shape
        )
        model = prepare_qat_pt2e(exported.module(), quantizer())
        fine_tune(model)
        converted = convert_pt2e(model)
        move_exported_model_to_eval(converted)
        export(converted, path)

    return make


def x86() -> object:
    """The quantizer of x86 CPUs."""
    from torchao.quantization.pt2e.quantizer import x86_inductor_quantizer as x86

    config = x86.get_default_x86_inductor_quantization_config(is_qat=True)
    return x86.X86InductorQuantizer().set_global(config)


def xnnpack() -> object:
    """The quantizer of XNNPACK, which runs on ARM."""
    from torchao.testing.pt2e._xnnpack_quantizer import XNNPACKQuantizer, get_symmetric_quantization_config

    return XNNPACKQuantizer().set_global(get_symmetric_quantization_config(is_per_channel=True, is_qat=True))


RECIPES = {
    "fbgemm": by_fx("fbgemm"),
    "x86": by_pt2e(x86),
    "xnnpack": by_pt2e(xnnpack),
}


def export(model: nn.Module, path: Path) -> None:
    """Write a model with the interface of the sample CNN: `image` [N, 1, 32, 32] -> `logits` [N, 10]."""
    torch.onnx.export(
        model,
        (torch.zeros(2, 1, 32, 32),),
        path,
        dynamo=True,
        dynamic_shapes=({0: torch.export.Dim("N")},),
        external_data=False,
        input_names=["image"],
        output_names=["logits"],
    )


def main() -> None:
    """Fine-tune and export by the recipe on the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("recipe", choices=RECIPES)
    parser.add_argument("output", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(SEED)
    RECIPES[args.recipe](trained(), args.output)


if __name__ == "__main__":
    main()
