"""Paged KV cache bookkeeping on the host: which blocks hold whose tokens. No array of keys or values lives here."""

from quire.kv.block_hash import extend_block_hashes, root_hash
from quire.kv.block_manager import BlockManager, PrefixHit
from quire.kv.block_pool import BlockPool
from quire.kv.kinds import KVGroup
from quire.kv.sequence_blocks import SequenceBlocks

__all__ = ["BlockManager", "BlockPool", "KVGroup", "PrefixHit", "SequenceBlocks", "extend_block_hashes", "root_hash"]
