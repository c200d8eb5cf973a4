"""Outlier columns: an int8 product leaves some columns of its activation to a small float product.

A few columns with a far wider range than the others set the scale of the tensor. Without them, the scale fits
the other columns (Dettmers et al., LLM.int8(), arXiv 2208.07339, section 3.2).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

from qtool.graph.view import View, float_constant, is_op
from qtool.plan.model import Kind, OutlierColumns, Site
from qtool.plan.weights import added_bias


def can_split_columns(view: View, site: Site) -> bool:
    """Return whether all int8 consumers of a value are MatMuls, each with a weight matrix of its own."""
    if (
        site.kind not in (Kind.ACTIVATION, Kind.RUNTIME)
        or not site.uses
        or site.group not in ("", site.value)
    ):
        return False
    return all(_is_able(view, name, index) for name, index in site.uses)


def _is_able(view: View, name: str, index: int) -> bool:
    node = view.node_by_name[name]
    if not is_op(node, "MatMul") or index != 0 or view.in_subgraph(node):
        return False
    weight = node.inputs[1]
    array = float_constant(weight)
    return weight is not None and array is not None and array.ndim == 2 and len(weight.uses()) == 1


def with_outlier_columns(
    view: View, sites: Iterable[Site], wanted: Mapping[str, OutlierColumns]
) -> tuple[tuple[Site, ...], dict[str, OutlierColumns]]:
    """Return the sites, with the ranges of the remaining columns, and the columns that are split off.

    Args:
        view: of the prepared graph.
        sites: of the draft.
        wanted: value -> its outlier columns; values that cannot be split are left out.
    """
    limited: list[Site] = []
    split: dict[str, OutlierColumns] = {}
    for site in sites:
        rest = wanted.get(site.value)
        if rest is not None and can_split_columns(view, site):
            lo, hi = site.bounds
            site = replace(site, bounds=(max(lo, rest.lo), min(hi, rest.hi)))
            split[site.value] = rest
        limited.append(site)
    return tuple(limited), split


def result_node(node_name: str, view: View) -> str:
    """Return the node whose result the float product is added to: the MatMul, or the Add of its bias."""
    bias = added_bias(view.node_by_name[node_name])
    return bias.use[0] if bias is not None else node_name
