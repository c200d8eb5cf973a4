"""The samples of a run, split once into three sets: calibrate, select, judge.

- calibrate: sets the ranges.
- select: decides every choice (ranges, columns, recovery steps, the candidate).
- judge: is read once, at the end, for the verdict and the gates. Nothing is chosen afterwards.

A set that took part in a choice looks better on that choice than new samples would, so the verdict needs
samples of its own.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from qtool.data.samples import Part, Samples
from qtool.errors import counted

# Ranges and errors of fewer samples say little: no set is smaller than this.
LEAST = 4
# Select and judge each take every fourth sample, where there are enough.
EVERY = 4


@dataclass(frozen=True)
class SampleSets:
    """The three sample sets of a run. None: there are no samples for it.

    Args:
        calibrate: samples that set the ranges; None where a file has the ranges, or the mode needs none.
        select: samples that every choice is measured on; None where nothing can be measured.
        judge: samples of the final verdict; None where there are no samples at all.
        judge_independent: the judge set shares no sample with the other two sets, so no decision of this
            run has seen it. False without a judge set.
        select_independent: the select set shares no sample with the calibrate set. False without one.
        notes: what the user should know about the split, a sentence each; empty for a full split.
        doubts: returns what looks wrong in the samples that were read so far (data/doubts.py).
    """

    calibrate: Samples | None
    select: Samples | None
    judge: Samples | None
    judge_independent: bool
    select_independent: bool
    notes: tuple[str, ...] = ()
    doubts: Callable[[], tuple[str, ...]] = tuple


def split_samples(calib: Samples | None, data: Samples | None, *, ranges_known: bool = False) -> SampleSets:
    """Split the samples of a run into calibrate, select and judge sets; the same samples give the same sets.

    1. `data` is the judge set and nothing else. Then every fourth `calib` sample selects and the others
       calibrate.
    2. Without `data`, of every four `calib` samples in order two calibrate, one selects, one judges.
    3. Each set has at least 4 samples. With 12 to 15 samples, of every three one goes to each set. With
       fewer than 12, select is also judge; with fewer than 8, all three are one.
    4. Without `calib`, every second sample of `data` selects and the others judge; with fewer than 8, both
       are one.
    5. With `ranges_known`, nothing calibrates. `calib` selects; without `data` every second `calib` sample
       selects and the others judge. `data` alone judges, and nothing selects.

    Args:
        calib: the samples of --calib.
        data: the samples of --data.
        ranges_known: a file has the ranges, so no samples are needed for them.
    """
    if calib is None:
        return _split_data(data, ranges_known)
    if ranges_known:
        return _split_selecting(calib, data)
    if data is None:
        return _split_three_ways(calib)
    return _split_calibration(calib, data)


def _split_three_ways(calib: Samples) -> SampleSets:
    """Rules 2 and 3: `calib` serves all three sets."""
    total = len(calib)
    if total < 2 * LEAST:
        count = counted(total, "sample")
        note = (
            f"judged on the {count} that also set the ranges and made every choice, so the verdict "
            f"is optimistic: {2 * LEAST} or more samples, or --data SRC, are needed to keep some apart"
        )
        return SampleSets(calib, calib, calib, False, False, (note,))
    if total < 3 * LEAST:
        rest, both = _take_turns(calib, ("calibrate", "select and judge"))
        count = counted(len(both), "sample")
        note = (
            f"judged on the {count} of {total} that also made every choice, so the verdict is "
            f"optimistic: {3 * LEAST} or more samples, or --data SRC, are needed to keep some apart"
        )
        return SampleSets(rest, both, both, False, True, (note,))
    turns = ("calibrate", "calibrate", "select", "judge")
    rest, select, judge = _take_turns(calib, turns if total >= EVERY * LEAST else turns[1:])
    return SampleSets(rest, select, judge, True, True)


def _split_calibration(calib: Samples, data: Samples) -> SampleSets:
    """Rules 1 and 3: `calib` serves two sets, `data` judges."""
    total = len(calib)
    independent, notes = _independent(calib, data)
    if total < 2 * LEAST:
        count = counted(total, "sample")
        note = (
            f"the {count} that set the ranges also made every choice: {2 * LEAST} or more are "
            "needed to keep some apart"
        )
        return SampleSets(calib, calib, data, independent, False, (note, *notes))
    every = min(EVERY, total // LEAST)
    rest, select = _take_turns(calib, ("calibrate",) * (every - 1) + ("select",))
    return SampleSets(rest, select, data, independent, True, notes)


def _split_selecting(calib: Samples, data: Samples | None) -> SampleSets:
    """Rule 5: the ranges are known, and `calib` is there to choose by."""
    if data is not None:
        independent, notes = _independent(calib, data)
        return SampleSets(None, calib, data, independent, True, notes)
    select, judge, notes = _split_in_two(calib)
    note = (
        "the verdict is optimistic if the ranges file was made from the samples of --calib: judge with --data"
    )
    return SampleSets(None, select, judge, select is not judge, True, (*notes, note))


def _split_data(data: Samples | None, ranges_known: bool) -> SampleSets:
    """Rules 4 and 5 without `calib`."""
    if data is None:
        return SampleSets(
            None, None, None, False, False, ("not judged: there are no samples (add --data SRC)",)
        )
    if ranges_known:
        count = counted(len(data), "sample")
        note = (
            f"nothing was chosen by measurement: the {count} of --data only judge "
            "(add --calib SRC to choose by)"
        )
        return SampleSets(None, None, data, True, False, (note,))
    select, judge, notes = _split_in_two(data)
    return SampleSets(None, select, judge, select is not judge, True, notes)


def _split_in_two(source: Samples) -> tuple[Samples, Samples, tuple[str, ...]]:
    """A select set and a judge set of a source, and what to say where it is too small for two."""
    total = len(source)
    if total < 2 * LEAST:
        count = counted(total, "sample")
        note = (
            f"judged on the {count} that also made every choice, so the verdict is optimistic: "
            f"{2 * LEAST} or more are needed to keep some apart"
        )
        return source, source, (note,)
    judge, select = _take_turns(source, ("judge", "select"))
    return select, judge, ()


def _take_turns(source: Samples, turns: tuple[str, ...]) -> list[Part]:
    """A part for each set, in the order in which `turns` first names it.

    Args:
        source: its sample at position p goes to the set `turns[p % len(turns)]`.
        turns: names of sets.
    """
    total = len(source)
    parts = []
    for use in dict.fromkeys(turns):
        positions = frozenset(p for p in range(total) if turns[p % len(turns)] == use)
        parts.append(Part(source, positions, f"{source.name} ({len(positions)} of {total} {use})"))
    return parts


def _independent(calib: Samples, data: Samples) -> tuple[bool, tuple[str, ...]]:
    """Return whether `data` names other samples than `calib`, and the warning if it does not."""
    same_files = calib.name == data.name and calib.traits.kind == data.traits.kind != "python"
    if calib is not data and not same_files:
        return True, ()
    count = counted(len(data), "sample")
    return False, (
        f"--data and --calib are the same {count}: the verdict is on samples that set the "
        "ranges and made every choice, so it is optimistic",
    )
