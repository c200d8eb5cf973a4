"""Sources of samples: a sample is a dict of arrays, and a source yields one at a time.

A source can be read again and again (calibration, then validation), knows its length, and names each sample,
so that an error or the worst sample can be found again. There is one file for each kind of source.
"""
