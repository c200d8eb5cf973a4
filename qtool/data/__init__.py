"""Sources of samples: anything that yields dicts of arrays, one sample at a time.

A source is re-iterable (calibration, then validation, each a pass of its own), knows its length,
and names each sample, so that an error or a worst case can be found again. One file a source.
"""
