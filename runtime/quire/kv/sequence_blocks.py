"""A sequence's place in the block tables."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(slots=True, eq=False)
class SequenceBlocks:
    """A sequence's place in the tables of every group. Owned by the BlockManager; others read.

    Attributes:
        row: its row in every group's tables.
        num_blocks: table entries in use, the same in every group of tokens.
        num_slots: tokens that have their places; 0 after a step where a group takes another for every step.
        num_offered: leading blocks already offered to the prefix cache.
        first_resident: sliding group -> index of the first entry that has not left the window.
        may_share_tail: the last, partly filled block may be referenced by a fork.
        num_encoder_tokens: of the encoder's output that it reads, 0 = none.
    """

    row: int
    num_blocks: int = 0
    num_slots: int = 0
    num_offered: int = 0
    first_resident: dict[str, int] = field(default_factory=dict)
    may_share_tail: bool = False
    num_encoder_tokens: int = 0
