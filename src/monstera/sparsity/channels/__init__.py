"""The channel-dependency graph of a model: chains, residual additions, concatenations, groups, flattens, heads."""

from monstera.sparsity.channels.graph import ChannelGraph, ChannelGroup, FixedDimension, Member, channel_graph, permute_

__all__ = ["ChannelGraph", "ChannelGroup", "FixedDimension", "Member", "channel_graph", "permute_"]
