"""Ways to compress a network other than pruning: fewer bits, shared values, low rank, small designs."""
