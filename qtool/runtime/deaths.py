"""The limits of a process that works on somebody's model, and its death as an error that names the step."""

from __future__ import annotations

import signal
from dataclasses import dataclass

from qtool.errors import (
    DataError,
    EnvironmentFailure,
    ModelError,
    QtoolError,
    RuntimeFailure,
    UsageError,
)
from qtool.runtime.heartbeat import Snapshot
from qtool.runtime.watchdog import Death

SECONDS = 60
SECONDS_A_GB = 60
_MORE_MEMORY = "a larger --memory-limit, or a machine with more"
_ERRORS: dict[int, type[QtoolError]] = {
    e.exit_code: e
    for e in (QtoolError, ModelError, DataError, EnvironmentFailure, RuntimeFailure, UsageError)
}


@dataclass(frozen=True)
class Limits:
    """Limits of the work; 0 is no limit.

    Args:
        seconds: of CPU time of one step; None: SECONDS, and SECONDS_A_GB more per GB of model.
        memory: bytes that it may allocate; None: 90% of the machine's or container's.
        advice: a hint for work that is ended by force: how to keep its results.
    """

    seconds: float | None = None
    memory: int | None = None
    advice: str = ""

    def patience(self, model_bytes: int) -> float:
        """Return the seconds of CPU time without a heartbeat after which the work is ended."""
        if self.seconds is None:
            return SECONDS + SECONDS_A_GB * model_bytes / 1e9
        return self.seconds or float("inf")


_limits = [Limits()]


def limit_steps(limits: Limits) -> None:
    """Set the limits of the worker processes that this process starts."""
    _limits[0] = limits


def limits_here() -> Limits:
    """Return the limits of the worker processes that this process starts."""
    return _limits[0]


def dead(death: Death, snapshot: Snapshot, limits: Limits) -> QtoolError:
    """Return the error of work that the watchdog ended: the model's only where it used its CPU time."""
    step, hint = snapshot.step, _hints("--time-limit SECONDS for more", limits)
    if death.idle:
        message = f"no heartbeat and no CPU time used for {death.seconds:.6g} s{_while(snapshot)}"
        return EnvironmentFailure(message, hint)
    if step is None:
        return EnvironmentFailure(
            f"no heartbeat in {death.seconds:.6g} s of CPU time{_while(snapshot)}", hint
        )
    return _ERRORS[step.blame](
        f"{step.subject}: no end after {death.seconds:.6g} s of CPU time: {step.doing}",
        f"a hostile or very slow model? {hint}",
    )


def died(number: int, snapshot: Snapshot, limits: Limits) -> QtoolError:
    """Return the error of work that a signal ended."""
    step = snapshot.step
    if number == signal.SIGKILL:
        message = f"killed by the system{_while(snapshot)}: out of memory?"
        return EnvironmentFailure(message, _hints(_MORE_MEMORY, limits))
    name = signal.Signals(number).name if number in set(signal.Signals) else f"signal {number}"
    if step is None:
        return QtoolError(f"qtool crashed ({name})", "please report it")
    return _ERRORS[step.blame](
        f"{step.subject}: a native library crashed ({name}): {step.doing}", "is it damaged, or hostile?"
    )


def gave_up(snapshot: Snapshot) -> QtoolError:
    """Return the error of work whose process a library ended, as OpenBLAS does without memory."""
    return EnvironmentFailure(f"a native library gave up{_while(snapshot)}: out of memory?", _MORE_MEMORY)


def _while(snapshot: Snapshot) -> str:
    """The step that was going on, or the stage of the work, in brackets; '' for neither."""
    step = snapshot.step
    doing = f"{step.subject}: {step.doing}" if step else snapshot.stage
    return f" ({doing})" if doing else ""


def _hints(hint: str, limits: Limits) -> str:
    return "; ".join(filter(None, (hint, limits.advice)))


def cause_of_death(code: int) -> str:
    """Return a process's cause of death: the signal of a negative exit code, or the exit code."""
    return signal.Signals(-code).name if -code in set(signal.Signals) else f"exit code {code}"
