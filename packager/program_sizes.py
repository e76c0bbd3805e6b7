"""Says whether a size expression in a ``.pt2`` program is arithmetic and nothing else, before torch evaluates it as Python.

torch writes sizes in sympy's notation, such as ``Mul(Integer(2), Symbol('s77', positive=True, integer=True))``. Allowed
are symbols, whole numbers, and functions whose result has no more digits than the text. Reads, does not evaluate.
"""

from __future__ import annotations

import ast
import re

SYMBOL = re.compile(r"[su]\d{1,6}")
"""Names of sizes: ``s`` for those of inputs, ``u`` for those that follow from values."""

_FUNCTIONS = frozenset(
    {"Add", "Mul", "Max", "Min", "Mod", "PythonMod", "FloorDiv", "CeilDiv", "CleanDiv", "IntTrueDiv", "ModularIndexing"}
    | {"Equality", "Unequality", "LessThan", "GreaterThan", "StrictLessThan", "StrictGreaterThan", "And", "Or", "Not"}
)
_ASSUMPTIONS = frozenset({"positive", "nonnegative", "integer"})
_POWERS = frozenset({-1, 2, 3, 4})


def is_arithmetic(text: str) -> bool:
    """True for such an expression. The caller bounds the length."""
    try:
        tree = ast.parse(text, mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False
    return _is_size(tree)


def _is_size(tree: ast.expr) -> bool:
    if not isinstance(tree, ast.Call) or not isinstance(tree.func, ast.Name):
        return _number(tree) is not None
    name, arguments = tree.func.id, tree.args
    if name == "Symbol":
        return _is_symbol(tree)
    if tree.keywords:
        return False
    if name == "Integer":
        return len(arguments) == 1 and _number(arguments[0]) is not None
    if name == "Pow":  # of a symbol only: a power of powers has more digits than memory
        return len(arguments) == 2 and _is_symbol(arguments[0]) and _integer(arguments[1]) in _POWERS
    return name in _FUNCTIONS and all(_is_size(item) for item in arguments)


def _is_symbol(tree: ast.expr) -> bool:
    if not isinstance(tree, ast.Call) or not isinstance(tree.func, ast.Name) or tree.func.id != "Symbol" or len(tree.args) != 1:
        return False
    assumed = {item.arg for item in tree.keywords if isinstance(item.value, ast.Constant) and item.value.value is True}
    name = tree.args[0].value if isinstance(tree.args[0], ast.Constant) else None
    is_known = len(assumed) == len(tree.keywords) and assumed <= _ASSUMPTIONS
    return is_known and isinstance(name, str) and SYMBOL.fullmatch(name) is not None


def _integer(tree: ast.expr) -> int | None:
    """The number in ``Integer(2)``, or a bare one."""
    is_call = isinstance(tree, ast.Call) and isinstance(tree.func, ast.Name) and tree.func.id == "Integer"
    if is_call and isinstance(tree, ast.Call) and len(tree.args) == 1 and not tree.keywords:
        return _number(tree.args[0])
    return _number(tree)


def _number(tree: ast.expr) -> int | None:
    if isinstance(tree, ast.UnaryOp) and isinstance(tree.op, ast.USub):
        inner = _number(tree.operand)
        return None if inner is None else -inner
    return tree.value if isinstance(tree, ast.Constant) and type(tree.value) is int else None
