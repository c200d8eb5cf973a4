"""The recovery step `finetune`: train the quantized model in torch, without its training code."""

from __future__ import annotations

import os
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from qtool.errors import DataError, EnvironmentFailure
from qtool.evaluate.evaluator import Evaluator
from qtool.evaluate.labels import read_labels
from qtool.graph.view import View
from qtool.plan.candidate import Candidate
from qtool.rewrite.outlier_columns import split_outlier_columns
from qtool.runtime.heartbeat import StepProgress

NAME = "finetune"


def check_torch() -> None:
    """Refuse fine-tuning without torch.

    Raises:
        EnvironmentFailure: it is not installed.
    """
    if find_spec("torch") is None:
        raise EnvironmentFailure(f"--recover {NAME} needs torch", "pip install 'torch>=2.5'")


def finetune(candidate: Candidate, evaluator: Evaluator, progress: StepProgress) -> Candidate:
    """Return the candidate with weights, scales, ranges and biases that were trained.

    It is trained on the calibrate set, and stops by the select set.

    Raises:
        ModelError: an op of the model has no gradient.
    """
    import torch

    from qtool.recover.finetune.forward import Forward
    from qtool.recover.finetune.quantizers import Quantizers
    from qtool.recover.finetune.train import Training, batches_of, with_true_labels

    samples, select = evaluator.statistics, evaluator.select
    if samples is None or select is None:
        return candidate
    model, options, split = candidate.model.model, candidate.model.options, candidate.model.model
    if candidate.plan.outlier_columns:
        split = model.clone()
        split_outlier_columns(split, candidate.plan)
    threads, deterministic = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    filled = torch.utils.deterministic.fill_uninitialized_memory
    try:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS is deterministic only so
        torch.use_deterministic_algorithms(True)
        torch.utils.deterministic.fill_uninitialized_memory = False  # no op here reads such memory
        torch.set_num_threads(candidate.model.threads or min(os.cpu_count() or 1, 8))
        device = "cuda" if torch.cuda.is_available() else "cpu"
        teacher = Forward(model, device)
        student = teacher if split is model else Forward(split, device)
        quantizers = Quantizers(View(split), candidate.plan, student)
        if not quantizers.weights:
            return candidate
        labels = _labels(candidate)
        training = Training(
            teacher,
            student,
            quantizers,
            with_true_labels(batches_of(samples, teacher, labels)),
            batches_of(select, teacher, {}),
            options.reading.seed,
            lambda text, done, total: evaluator.progress(f"recover: {NAME}, {text}", done, total),
            lambda: not evaluator.budget.out_of_time,
        )
        training.run()
        plan = quantizers.learned()
        other = candidate.changed(bounds={**candidate.bounds, **quantizers.bounds()})
    finally:
        torch.use_deterministic_algorithms(deterministic)
        torch.utils.deterministic.fill_uninitialized_memory = filled
        torch.set_num_threads(threads)
    return other.with_weights(plan)


def _labels(candidate: Candidate) -> dict[str, int]:
    """Return the class of each sample that --labels knows, where it is one class."""
    path = candidate.model.options.labels
    if path is None:
        return {}
    try:
        labels = read_labels(Path(path)).items()
    except DataError:  # of a task metric, in another form
        return {}
    return {name: int(c[0]) for name, c in labels if isinstance(c, np.ndarray) and len(c) == 1}
