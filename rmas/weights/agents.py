"""The frozen weights of several agents as one tree."""

import jax

from rmas.shapes import Params


@jax.tree_util.register_pytree_with_keys_class
class AgentParams(dict[str, Params]):
    """Frozen weights by agent; agents that share weights have the same tree.

    As a pytree it holds each tree once. So a compiled program takes shared weights as one argument,
    and not as one for each agent, all of which would count against a device's memory. Trees are the
    same if they are one object, so a plain `dict` of them loses it.
    """

    def tree_flatten_with_keys(self):
        """Distinct trees under the name of their first agent; whose tree each agent has."""
        first: dict[int, str] = {}
        for agent, tree in self.items():
            first.setdefault(id(tree), agent)
        owners = tuple((agent, first[id(tree)]) for agent, tree in self.items())
        return [(jax.tree_util.DictKey(agent), self[agent]) for agent in first.values()], owners

    @classmethod
    def tree_unflatten(cls, owners, trees):
        """The agents again; those that shared a tree share what is now in its place."""
        by_owner = dict(zip(dict.fromkeys(owner for _, owner in owners), trees, strict=True))
        return cls((agent, by_owner[owner]) for agent, owner in owners)
