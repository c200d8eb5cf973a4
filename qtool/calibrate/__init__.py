"""What activations do on real samples: the statistics that ranges are made of.

The package can be called: `qtool.calibrate(model, data, how)` is `calibrate_model` of qtool/calibration.py.
Python binds an imported subpackage to its name in `qtool`, and would so hide a function of that name.
"""

from __future__ import annotations

import sys
from functools import cache
from importlib import import_module
from types import ModuleType
from typing import Any


class _Callable(ModuleType):
    """A package that is a function of the library as well."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return _function()(*args, **kwargs)

    @property
    def __signature__(self) -> Any:
        """For help() and editors."""
        from inspect import signature

        return signature(_function())


@cache
def _function() -> Any:
    """The function; imported when it is called, since it stands far behind this package in the flow."""
    return import_module("qtool.commands.calibrate").calibrate_model


sys.modules[__name__].__class__ = _Callable
