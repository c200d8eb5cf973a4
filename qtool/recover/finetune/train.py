"""Training by distillation: the quantized model learns to answer as FP32 does, by blocks, then as a whole.

Blocks are reconstructed one after the other, each on the inputs that the quantized blocks before it give
(BRECQ, Li et al. 2021, arXiv 2102.05426). Then all of them learn together from the outputs of FP32, with
labels beside them where there are some. The loss is the noise of each output over its signal, so the SQNR.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from qtool.data.samples import Samples
from qtool.errors import ModelError
from qtool.recover.finetune.forward import Forward, Values
from qtool.recover.finetune.quantizers import Quantizers
from qtool.runtime.heartbeat import beat

# The optimizer's rate for each kind of parameter: weights in steps of their grid, logarithms, vectors in
# units of their own size. Each stage ends with a rate of 0 (cosine). On a
# digit classifier with 2-bit weights and one sample a step, higher rates gained nothing.
RATES = {"weights": 0.003, "steps": 2e-4, "ranges": 5e-4, "vectors": 2e-4}
# Samples of a step; the fewest steps of a block and of the last stage, in steps and in epochs (a model with a
# fixed batch has one sample a step).
BATCH, BLOCK_STEPS, BLOCK_EPOCHS, STEPS, EPOCHS = 32, 120, 4, 600, 20
# How often the last stage is measured, and how many measurements without a gain end it: a gain may come late,
# when the rate falls.
CHECKS, PATIENCE = 30, 20
_LABELS_WEIGHT = 0.05


@dataclass(frozen=True)
class Batch:
    """Samples that run together.

    Args:
        inputs: of the model.
        targets: the FP32 outputs.
        labels: a class for each sample, -1: unknown; None: there are none.
    """

    inputs: Values
    targets: list[Tensor]
    labels: Tensor | None = None


def batches_of(samples: Samples, teacher: Forward, labels: dict[str, int], size: int = BATCH) -> list[Batch]:
    """Return the samples in batches with the outputs of FP32: of equal shapes, where the model allows it."""
    groups: dict[tuple[object, ...], list[tuple[Values, int]]] = {}
    for sample in samples.read():
        values = {name: teacher.tensor(np.asarray(a)) for name, a in sample.inputs.items()}
        key = tuple((n, v.shape) for n, v in sorted(values.items()))
        groups.setdefault(key, []).append((values, labels.get(sample.name, -1)))
    batches: list[Batch] = []
    for group in groups.values():
        together = size if _joins([v for v, _ in group[:2]], teacher) else 1
        for start in range(0, len(group), together):
            part = group[start : start + together]
            inputs = (
                {name: torch.cat([v[name] for v, _ in part]) for name in part[0][0]}
                if together > 1
                else part[0][0]
            )
            labelled = torch.tensor([c for _, c in part], device=teacher.device)
            targets = outputs_of(teacher, inputs)
            batches.append(Batch(inputs, targets, labelled if (labelled >= 0).any() else None))
        beat()
    return batches


def _joins(pair: Sequence[Values], teacher: Forward) -> bool:
    """Return whether two samples give the same outputs together as alone."""
    if len(pair) < 2 or any(v.ndim == 0 for v in pair[0].values()):
        return False
    try:
        both = outputs_of(teacher, {name: torch.cat([p[name] for p in pair]) for name in pair[0]})
    except ModelError:  # the graph has a fixed batch
        return False
    alone = [
        torch.cat(each) if each[0].ndim else None
        for each in zip(*(outputs_of(teacher, p) for p in pair), strict=True)
    ]
    return all(
        a is not None and a.shape == b.shape and torch.allclose(a.float(), b.float(), rtol=1e-3, atol=1e-4)
        for a, b in zip(alone, both, strict=True)
    )


def outputs_of(forward: Forward, inputs: Values, quantizers: Quantizers | None = None) -> list[Tensor]:
    """Return the outputs for inputs, without gradients."""
    with torch.no_grad():
        return _outputs(forward, inputs, quantizers)


def _outputs(forward: Forward, inputs: Values, quantizers: Quantizers | None) -> list[Tensor]:
    values = dict(inputs)
    outputs = forward.model.graph.outputs
    if quantizers is None:
        forward.run(values)
        return [forward.value(v, values) for v in outputs]
    quantizers.begin()
    forward.run(values, quantizers.read)
    return [quantizers.output(v.name or "", forward.value(v, values)) for v in outputs]


def noise(outputs: Sequence[Tensor], targets: Sequence[Tensor]) -> list[tuple[Tensor, Tensor]]:
    """Return the energies of error and signal of each float output."""
    return [
        ((y - t).square().sum(), t.square().sum())
        for y, t in zip(outputs, targets, strict=True)
        if t.is_floating_point() and t.numel()
    ]


def loss_of(outputs: Sequence[Tensor], batch: Batch) -> Tensor:
    """Return the noise over the signal, summed over the outputs, and the error by the labels."""
    total = torch.stack([e / s.clamp(min=1e-12) for e, s in noise(outputs, batch.targets)]).sum()
    scores = _scores(outputs, batch)
    if scores is not None and batch.labels is not None:
        labelled = batch.labels >= 0
        total = total + _LABELS_WEIGHT * F.cross_entropy(scores[labelled], batch.labels[labelled])
    return total


def _scores(outputs: Sequence[Tensor], batch: Batch) -> Tensor | None:
    """Return the scores [N, C] of the samples of a batch that has labels."""
    if batch.labels is None:
        return None
    fits = (y for y in outputs if y.is_floating_point() and y.ndim == 2 and len(y) == len(batch.labels))
    return next(fits, None)


def with_true_labels(batches: list[Batch]) -> list[Batch]:
    """Return the batches, without labels where FP32 hardly predicts them: they belong to other samples.

    Files of --calib may have the names of files of --data, which labels are for.
    """
    right = total = classes = 0
    for batch in batches:
        scores = _scores(batch.targets, batch)
        if scores is not None and batch.labels is not None:
            labelled = batch.labels >= 0
            right += int((scores[labelled].argmax(1) == batch.labels[labelled]).sum())
            total, classes = total + int(labelled.sum()), scores.shape[1]
    true = total > 0 and right / total > 0.5 + 0.5 / max(classes, 2)
    return batches if true else [replace(batch, labels=None) for batch in batches]


def sqnr(forward: Forward, quantizers: Quantizers, batches: Sequence[Batch]) -> float:
    """Return the SQNR of the worst output, in dB."""
    errors: list[float] = []
    signals: list[float] = []
    for batch in batches:
        pairs = noise(outputs_of(forward, batch.inputs, quantizers), batch.targets)
        errors = [a + float(e) for a, (e, _) in zip(errors or [0.0] * len(pairs), pairs, strict=True)]
        signals = [a + float(s) for a, (_, s) in zip(signals or [0.0] * len(pairs), pairs, strict=True)]
        beat()
    ratios = [s / e if e > 0 else math.inf for e, s in zip(errors, signals, strict=True) if s > 0]
    return 10 * math.log10(min(ratios)) if ratios and min(ratios) > 0 else -math.inf


@dataclass
class Training:
    """One training.

    Args:
        teacher: the prepared model in FP32.
        student: the model that the quantizers are of.
        quantizers: of the student.
        train, held_out: batches.
        seed: of the order of the batches.
        show: called with a text that tells the stage, the steps done and the steps in all.
        more: whether there is time for more.
    """

    teacher: Forward
    student: Forward
    quantizers: Quantizers
    train: list[Batch]
    held_out: list[Batch]
    seed: int
    show: Callable[[str, int, int], None]
    more: Callable[[], bool]
    best: float = -math.inf
    state: list[Tensor] = field(default_factory=list)

    def run(self) -> None:
        """Train; the quantizers end with the parameters that were best on the held-out samples."""
        self._order = torch.Generator().manual_seed(self.seed)
        self._keep()
        blocks = blocks_of(self.student, self.quantizers) if self.student.model is self.teacher.model else []
        if len(blocks) > 1:
            self._reconstruct(blocks)
            self._keep()
        self._restore()
        self._together()
        self._restore()

    def _keep(self) -> bool:
        """Keep the parameters if they are the best on the held-out samples."""
        now = sqnr(self.student, self.quantizers, self.held_out)
        if now > self.best:
            self.best = now
            self.state = [p.detach().clone() for ps in self.quantizers.parameters.values() for p in ps]
            return True
        return False

    def _restore(self) -> None:
        with torch.no_grad():
            every = [p for ps in self.quantizers.parameters.values() for p in ps]
            for parameter, kept in zip(every, self.state, strict=True):
                parameter.copy_(kept)

    def _optimizer(self, chosen: set[int] | None = None) -> torch.optim.Adam | None:
        """Return what trains the chosen parameters; None where there are none."""
        groups = []
        weights = list(self.quantizers.weights.values())
        for kind, parameters in self.quantizers.parameters.items():
            for number, parameter in enumerate(parameters):
                if not parameter.requires_grad or (chosen is not None and id(parameter) not in chosen):
                    continue
                rate = RATES[kind]
                if kind == "weights":
                    rate *= float(weights[number].scale.mean())
                elif kind == "vectors":
                    rate *= float(parameter.detach().abs().mean()) or 1e-3
                groups.append({"params": [parameter], "lr": rate, "full": rate})
        return torch.optim.Adam(groups, betas=(0.9, 0.99)) if groups else None

    def _shuffled(self) -> Iterator[Batch]:
        """Yield the batches in a new order each time, without an end."""
        while True:
            for index in torch.randperm(len(self.train), generator=self._order).tolist():
                yield self.train[index]

    def _together(self) -> None:
        """Train all parameters on the outputs, and keep those with the best SQNR on the held-out samples."""
        optimizer, waited, losses = self._optimizer(), 0, list[float]()
        total = max(STEPS, EPOCHS * len(self.train))
        if optimizer is None:
            return
        batches = self._shuffled()
        for step in range(total):
            _set_rate(optimizer, step / total)
            batch = next(batches)
            loss = loss_of(_outputs(self.student, batch.inputs, self.quantizers), batch)
            losses.append(_step(optimizer, loss))
            if (step + 1) % (total // CHECKS):
                continue
            waited = 0 if self._keep() else waited + 1
            text = f"loss {np.mean(losses):.4f}, held-out SQNR {self.best:.1f} dB"
            losses.clear()
            self.show(text, step + 1, total)
            if waited >= PATIENCE or not self.more():
                break

    def _reconstruct(self, blocks: list[tuple[int, int, str]]) -> None:
        """Train each block on its FP32 output, with the inputs that the quantized blocks before it give."""
        true = [dict(batch.inputs) for batch in self.train]
        values = [dict(batch.inputs) for batch in self.train]
        for number, (start, stop, name) in enumerate(blocks):
            if not self.more():
                return
            with torch.no_grad():
                for one in true:
                    self.teacher.run(one, start=start, stop=stop)
            targets = [one[name] for one in true]
            optimizer = self._optimizer(_inside(self.student, self.quantizers, start, stop))
            last = 0.0
            if optimizer is not None:
                last = self._train_block(optimizer, (start, stop, name), values, targets)
            with torch.no_grad():
                for one in values:
                    self.quantizers.begin()
                    self.student.run(one, self.quantizers.read, start, stop)
            text = f"block at {-10 * math.log10(max(last, 1e-12)):.1f} dB"
            self.show(text, number + 1, len(blocks))

    def _train_block(
        self,
        optimizer: torch.optim.Optimizer,
        block: tuple[int, int, str],
        values: list[Values],
        targets: list[Tensor],
    ) -> float:
        """Train one block, and return its last loss."""
        start, stop, name = block
        last, total = 0.0, max(BLOCK_STEPS, BLOCK_EPOCHS * len(values))
        for step in range(total):
            _set_rate(optimizer, step / total)
            at = int(torch.randint(len(values), (1,), generator=self._order))
            inner = dict(values[at])
            self.quantizers.begin()
            self.student.run(inner, self.quantizers.read, start, stop)
            error, signal = noise([inner[name]], [targets[at]])[0]
            last = _step(optimizer, error / signal.clamp(min=1e-12))
        return last


def _set_rate(optimizer: torch.optim.Optimizer, share: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = group["full"] * (1 + math.cos(math.pi * share)) / 2


def _step(optimizer: torch.optim.Optimizer, loss: Tensor) -> float:
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            if parameter.grad is not None:
                torch.nan_to_num_(parameter.grad, 0.0, 0.0, 0.0)
    optimizer.step()
    beat()
    return float(loss.detach())


def _inside(student: Forward, quantizers: Quantizers, start: int, stop: int) -> set[int]:
    """Return the parameters that some nodes read, by identity."""
    ids: set[int] = set()
    for node in student.nodes[start:stop]:
        for index, value in enumerate(node.inputs):
            ids |= quantizers.parameters_of(node, index, (value.name or "") if value is not None else "")
    return ids


def blocks_of(student: Forward, quantizers: Quantizers) -> list[tuple[int, int, str]]:
    """Return the blocks of a model: the first node, the node behind the last, and the value between blocks.

    A block ends where one float value alone passes on all that quantization has changed, and it has weights.
    """
    nodes = student.nodes
    last: dict[str, int] = {}
    for position, node in enumerate(nodes):
        for value in node.inputs:
            if value is not None and value.name:
                last[value.name] = position
    live: set[str] = set()
    blocks: list[tuple[int, int, str]] = []
    start, weights = 0, 0
    for position, node in enumerate(nodes[:-1]):
        if any(a.name in ("then_branch", "body") for a in node.attributes.values()):
            return []
        own = [
            quantizers.parameters_of(node, i, (v.name or "") if v else "") for i, v in enumerate(node.inputs)
        ]
        changed = any(own) or any(v is not None and v.name in live for v in node.inputs)
        weights += sum(1 for ids in own if ids)
        live |= {v.name for v in node.outputs if v.name and changed and last.get(v.name, -1) > position}
        live = {name for name in live if last.get(name, -1) > position}
        if weights and len(live) == 1:
            blocks.append((start, position + 1, next(iter(live))))
            start, weights = position + 1, 0
    return blocks
