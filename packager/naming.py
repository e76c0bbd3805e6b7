"""One of each constant, and short names: what is left to save once a graph computes only what it must.

Names go by scope: a subgraph reads values of the graphs around it by their names, so a value is renamed where it is
defined and wherever it is read, and no two values of a model get the same new name. Part of ``shrink.py``.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import onnx
from onnx import numpy_helper

from packager.graphs import Graph, all_graphs, defined_names, subgraphs

_DIGITS = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
_WORTH_SHARING_BYTES = 64  # between sibling subgraphs; below it a copy costs no more than the wider scope is worth

_Key = tuple[int, tuple[int, ...], bytes]


def merge_initializers(graph: Graph) -> None:
    """Keeps one of each set of equal constants, in raw form, and none as an input of the graph.

    A subgraph reads the constant of a graph around it; a large one that only sibling subgraphs have moves to the main graph.
    Constants that are outputs of their graph stay.
    """
    _raw_form(graph)
    _share_among_siblings(graph)
    _merge(graph, {}, {})
    constants = {tensor.name for tensor in graph.initializer}
    inputs = [value for value in graph.input if value.name not in constants]
    del graph.input[:]
    graph.input.extend(inputs)


def rename_values(graph: Graph) -> None:
    """Gives every inner value a short name, in order of first use; the main graph's inputs and outputs keep theirs."""
    kept = {value.name for value in (*graph.input, *graph.output)}
    _rename(graph, [], _Names(kept))


def _raw_form(graph: Graph) -> None:
    for inner in all_graphs(graph):
        for tensor in inner.initializer:
            if tensor.data_type != onnx.TensorProto.STRING:
                tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor), tensor.name))


def _key(tensor: Any) -> _Key:
    content = tensor.raw_data if tensor.data_type != onnx.TensorProto.STRING else b"\0".join(tensor.string_data)
    return tensor.data_type, tuple(tensor.dims), hashlib.sha256(content).digest()


def _share_among_siblings(graph: Graph) -> None:
    """Copies to the main graph each large constant that several subgraphs have and it has not."""
    counts: Counter[_Key] = Counter()
    first: dict[_Key, Any] = {}
    for inner in list(all_graphs(graph))[1:]:
        outputs = {value.name for value in inner.output}
        for tensor in inner.initializer:
            if tensor.name not in outputs and len(tensor.raw_data) >= _WORTH_SHARING_BYTES:
                counts[_key(tensor)] += 1
                first.setdefault(_key(tensor), tensor)
    fixed = {value.name for value in graph.output}
    present = {_key(tensor) for tensor in graph.initializer if tensor.name not in fixed}
    taken = {name for inner in all_graphs(graph) for name in defined_names(inner)}
    number = 0
    for key, count in counts.items():
        if count > 1 and key not in present:
            while (name := f"shared_{number}") in taken:
                number += 1
            taken.add(name)
            graph.initializer.add().CopyFrom(first[key])
            graph.initializer[-1].name = name


def _merge(graph: Graph, visible: Mapping[_Key, str], replaced: Mapping[str, str]) -> None:
    names, mapping = dict(visible), dict(replaced)
    fixed = {value.name for value in graph.output}
    kept = []
    for tensor in graph.initializer:
        if tensor.name in fixed:
            kept.append(tensor)
            continue
        first = names.setdefault(_key(tensor), tensor.name)
        if first == tensor.name:
            kept.append(tensor)
        else:
            mapping[tensor.name] = first
    if len(kept) != len(graph.initializer):
        del graph.initializer[:]
        graph.initializer.extend(kept)
    for node in graph.node:
        for index, name in enumerate(node.input):
            node.input[index] = mapping.get(name, name)
        for inner in subgraphs(node):
            _merge(inner, names, mapping)


@dataclass
class _Names:
    """New names, none of which is in ``kept`` and none of which is given twice."""

    kept: set[str]
    count: int = 0

    def next(self) -> str:
        while (name := _short_name(self.count)) in self.kept:
            self.count += 1
        self.count += 1
        return name


@dataclass
class _Scope:
    """One graph: the names that it defines, and the new name of each that was met."""

    defined: set[str]
    new: dict[str, str] = field(default_factory=dict)


def _rename(graph: Graph, outer: Sequence[_Scope], names: _Names) -> None:
    scopes = [*outer, _Scope(defined_names(graph))]
    is_main = not outer

    def renamed(name: str) -> str:
        for scope in reversed(scopes) if name else ():
            if name in scope.defined:
                if scope is scopes[0] and name in names.kept:
                    return name
                if name not in scope.new:
                    scope.new[name] = names.next()
                return scope.new[name]
        return name

    if not is_main:
        for value in graph.input:
            value.name = renamed(value.name)
    for node in graph.node:
        for index, name in enumerate(node.input):
            node.input[index] = renamed(name)
        for inner in subgraphs(node):
            _rename(inner, scopes, names)
        for index, name in enumerate(node.output):
            node.output[index] = renamed(name)
    for tensor in graph.initializer:
        tensor.name = renamed(tensor.name)
    if not is_main:
        for value in graph.output:
            value.name = renamed(value.name)
    ordered = sorted(graph.initializer, key=lambda tensor: (len(tensor.name), tensor.name))
    del graph.initializer[:]
    graph.initializer.extend(ordered)


def _short_name(number: int) -> str:
    name = ""
    number += 1
    while number:
        number, digit = divmod(number - 1, len(_DIGITS))
        name = _DIGITS[digit] + name
    return name
