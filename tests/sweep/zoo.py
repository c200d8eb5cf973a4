"""The zoo: legal but awkward models by name, each with weights and samples."""

from __future__ import annotations

from tests.sweep.specimen import Specimen
from tests.sweep.zoo_graphs import GRAPHS
from tests.sweep.zoo_idioms import IDIOMS
from tests.sweep.zoo_layers import LAYERS
from tests.sweep.zoo_products import PRODUCTS
from tests.sweep.zoo_quantized import QUANTIZED
from tests.sweep.zoo_scopes import OPSETS, SCOPES
from tests.sweep.zoo_sequences import SEQUENCES
from tests.sweep.zoo_values import NUMBERS, TYPES

_ROOMS = (GRAPHS, SCOPES, OPSETS, LAYERS, IDIOMS, PRODUCTS, SEQUENCES, TYPES, NUMBERS, QUANTIZED)

ZOO: dict[str, Specimen] = {name: one for room in _ROOMS for name, one in room.items()}
assert len(ZOO) == sum(map(len, _ROOMS)), "two specimens of one name"
