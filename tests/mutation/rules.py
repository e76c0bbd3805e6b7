"""What is changed in a mutant and what is not: mutmut's operators, one of our own, a control, and the texts left alone.

mutmut has no hook for either, so ``installed`` puts both into the one release that requirements/proofs.lock pins. The
README beside this file says why each of them is there.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import libcst as cst
from libcst import matchers as m
from mutmut.mutation import file_mutation, mutators

# Arguments of an error that are read by people only; `code` is not among them.
TEXT_KEYWORDS = frozenset({"where", "expected", "actual", "hint"})
# What a reader is told only to say it in its errors.
PLACE_KEYWORDS = frozenset({"where", "what", "detail"})
# Variables that hold such a label or sentence until it is said.
TEXT_VARIABLES = PLACE_KEYWORDS | {"told", "hint"}
# Decorators whose functions mutmut leaves out although a trampoline below the decorator works.
TRANSPARENT = frozenset({"property", "contextmanager"})

Function = cst.FunctionDef


def remove_statement(node: cst.BaseSmallStatement) -> Iterable[cst.BaseSmallStatement]:
    """``raise X`` and ``check(x)`` become ``pass``: the rule is gone. Other operators only bend it."""
    if isinstance(node, cst.Raise) or (isinstance(node, cst.Expr) and isinstance(node.value, cst.Call) and not _is_log(node.value)):
        yield cst.Pass()


def control(body: cst.IndentedBlock) -> cst.IndentedBlock:
    """The same function with a ``pass`` at its end: a mutant that every sound test run lets live."""
    return body.with_changes(body=[*body.body, cst.SimpleStatementLine([cst.Pass()])])


def text_arguments(call: cst.Call) -> list[cst.Arg]:
    """The arguments of a call that only say something to a person: see README.md, "What is not mutated"."""
    found = [arg for arg in call.args if _names_a_place(arg)]
    if _is_error(call):
        found += [arg for arg in call.args if arg.keyword is not None and arg.keyword.value in TEXT_KEYWORDS]
        if call.args and call.args[0].keyword is None:
            found.append(call.args[0])
    return found


class TextIsLeftAlone(file_mutation.MutationVisitor):
    """mutmut's visitor without texts, log lines, and with decorators that a trampoline stands well below."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._texts: dict[int, cst.Arg] = {}
        self._bodies: set[int] = set()

    def on_visit(self, node: cst.CSTNode) -> bool:
        if isinstance(node, cst.Call):
            if _is_log(node):
                return False
            self._texts |= {id(arg): arg for arg in text_arguments(node)}
        if isinstance(node, Function) and self.get_metadata(file_mutation.OuterFunctionProvider, node, None) is node:
            self._bodies.add(id(node.body))
        if isinstance(node, cst.Arg) and id(node) in self._texts:
            return False
        if (isinstance(node, cst.Param) and node.name.value in PLACE_KEYWORDS) or _sets_a_text(node):
            return False
        visited: bool = super().on_visit(node)
        return visited

    def _create_mutations(self, node: cst.CSTNode) -> None:
        super()._create_mutations(node)
        if isinstance(node, cst.IndentedBlock) and id(node) in self._bodies:
            outer = self.get_metadata(file_mutation.OuterFunctionProvider, node, None)
            self.mutations.append(file_mutation.Mutation(node, control(node), outer))

    def _removes_ignored_code(self, node: cst.CSTNode, mutated_node: cst.CSTNode) -> bool:
        if isinstance(node, cst.Call) and isinstance(mutated_node, cst.Call):
            kept = {id(arg) for arg in mutated_node.args}
            if any(id(arg) in self._texts for arg in node.args if id(arg) not in kept):
                return True
        ignored: bool = super()._removes_ignored_code(node, mutated_node)
        return ignored

    def _skip_node_and_children(self, node: cst.CSTNode) -> bool:
        if isinstance(node, cst.FunctionDef) and _is_transparent(node):
            node = node.with_changes(decorators=())
        skipped: bool = super()._skip_node_and_children(node)
        return skipped


@contextmanager
def installed() -> Iterator[None]:
    """mutmut with the rules of this file."""
    arrange, visitor = file_mutation.function_trampoline_arrangement, file_mutation.MutationVisitor
    operator = (cst.BaseSmallStatement, remove_statement)

    def arranged(function: Function, *args: Any, **kwargs: Any) -> Any:
        declared, nodes, assigned, names = arrange(function, *args, **kwargs)
        if _is_transparent(function):  # the trampoline keeps the decorator, what it calls must not have it
            nodes = [nodes[0], *(copy.with_changes(decorators=()) for copy in nodes[1:])]
        return declared, nodes, assigned, names

    mutators.mutation_operators.append(operator)  # type: ignore[attr-defined]
    file_mutation.function_trampoline_arrangement = arranged
    file_mutation.MutationVisitor = TextIsLeftAlone  # type: ignore[misc]
    try:
        yield
    finally:
        mutators.mutation_operators.remove(operator)  # type: ignore[attr-defined]
        file_mutation.function_trampoline_arrangement = arrange
        file_mutation.MutationVisitor = visitor  # type: ignore[misc]


def _is_error(call: cst.Call) -> bool:
    name = call.func.attr if isinstance(call.func, cst.Attribute) else call.func
    return isinstance(name, cst.Name) and name.value.endswith("Error")


def _is_log(call: cst.Call) -> bool:
    return m.matches(call.func, m.Attribute(value=m.Name("logger")))


def _names_a_place(arg: cst.Arg) -> bool:
    """``where=...``, ``where`` and ``f"{where}.field"``: the label that errors of a reader carry."""
    if arg.keyword is not None:
        return arg.keyword.value in PLACE_KEYWORDS
    value = arg.value
    if isinstance(value, cst.FormattedString) and value.parts and isinstance(value.parts[0], cst.FormattedStringExpression):
        value = value.parts[0].expression
    return m.matches(value, m.Name("where") | m.Attribute(attr=m.Name("where")))


def _sets_a_text(node: cst.CSTNode) -> bool:
    if not isinstance(node, cst.Assign) or len(node.targets) != 1:
        return False
    return m.matches(node.targets[0].target, m.Name(m.MatchIfTrue(lambda name: name in TEXT_VARIABLES)))


def _is_transparent(function: Function) -> bool:
    if len(function.decorators) != 1:
        return False
    decorator = function.decorators[0].decorator
    return isinstance(decorator, cst.Name) and decorator.value in TRANSPARENT
