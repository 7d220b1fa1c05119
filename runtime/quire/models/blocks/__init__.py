"""What decoders are made of: norms, attention, feed-forward blocks, layers, and the decoder around them.

Blocks know the config's usual words and no family.
"""
