"""The order of nodes that ONNX asks for: every value is made before it is read, by a node or inside one."""

from __future__ import annotations

import heapq
from collections import defaultdict

from packager.graphs import Graph, used_names


def order_nodes(graph: Graph) -> None:
    """Puts every node after those whose outputs it or a subgraph of it reads; of several that may come next the first one does.

    A graph that is in order stays as it is. Subgraphs are not touched.

    Raises:
        ValueError: the graph has a cycle.
    """
    made_by = {name: index for index, node in enumerate(graph.node) for name in node.output if name}
    needs = [{made_by[name] for name in used_names(node) if name in made_by} for node in graph.node]
    readers: dict[int, list[int]] = defaultdict(list)
    for index, before in enumerate(needs):
        for other in before:
            readers[other].append(index)
    ready = [index for index, before in enumerate(needs) if not before]
    order = []
    while ready:
        index = heapq.heappop(ready)
        order.append(index)
        for reader in readers[index]:
            needs[reader].discard(index)
            if not needs[reader]:
                heapq.heappush(ready, reader)
    nodes = [graph.node[index] for index in order]
    if len(nodes) != len(graph.node):
        raise ValueError("the graph has a cycle")
    del graph.node[:]
    graph.node.extend(nodes)
