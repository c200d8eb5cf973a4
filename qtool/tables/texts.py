"""What the inputs of text models are called, by what they hold: a row a role, the commonest name first."""

from __future__ import annotations

IDS = "token ids"
MASK = "1 for tokens, 0 for padding"
TYPES = "segment of each token"
POSITIONS = "position of each token"

# Compared in lower case, and without what exporters add: input_ids:0.
ROLES: dict[str, tuple[str, ...]] = {
    IDS: ("input_ids", "input", "inputs", "tokens", "ids", "token_ids", "input_tokens"),
    MASK: ("attention_mask", "input_mask", "mask", "padding_mask"),
    TYPES: ("token_type_ids", "segment_ids", "token_types"),
    POSITIONS: ("position_ids", "positions"),
}

# What tokenizers call padding, where their file does not say.
PADDING = ("[PAD]", "<pad>", "<PAD>", "[pad]")
