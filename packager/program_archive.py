"""Makes of a ``.pt2`` file one that torch can read without unpickling anything or running code from it.

``torch.export.load`` unpickles example inputs, custom objects and some weights, evaluates size expressions and guard code
as Python, imports classes that a tree description names, and loads compiled libraries (torch 2.13, ``pt2_archive`` and
``_export/serde``). So the file is not given to it. It is read here as what it is, a zip of JSON and raw numbers; what is
known and harmless is written into a new archive, and anything else is refused: pickled members, operators outside ATen or
that touch files, names that are no names, expressions beyond arithmetic. Example inputs, guard code, stack traces and
metadata are left out.

Needs no torch. Does *not* judge the computation itself; its result is exported and compared like any module's.
"""

from __future__ import annotations

import io
import json
import re
import zipfile
from collections.abc import Callable, Mapping
from keyword import iskeyword
from typing import Any

from device_client.errors import UsageError
from device_client.limits import DEFAULT_LIMITS
from packager.program_sizes import SYMBOL, is_arithmetic

MAX_MEMBERS = 20_000
MAX_JSON_BYTES = 64 * 1024 * 1024
_MAX_DEPTH = 40
_MAX_TEXT = 512
_MODEL = "model"  # the name under which torch.export.save stores the one program
_ENDINGS = {"byteorder": b"little", ".data/version": b"3\n", "archive_format": b"pt2", "archive_version": b"0"}

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_DOTTED = re.compile(r"[A-Za-z_][A-Za-z0-9_]*(\.[A-Za-z0-9_]+)*")
_OPERATOR = re.compile(r"torch\.ops\.aten\.([a-z0-9_]+)\.[A-Za-z0-9_]+")
_FILE_OPERATORS = frozenset({"from_file", "save", "load", "_load_from", "warn", "format", "set_source_Storage"})
_SCALAR_OPERATORS = frozenset(
    {f"_operator.{name}" for name in ("add", "sub", "mul", "floordiv", "truediv", "mod", "neg", "pos", "getitem")}
    | {f"_operator.{name}" for name in ("eq", "ne", "lt", "le", "gt", "ge", "and_", "or_", "not_")}
    | {f"torch.sym_{name}" for name in ("int", "float", "max", "min", "not", "ite")}
    | {f"math.{name}" for name in ("ceil", "floor", "trunc")}
)
_WORDS = frozenset(
    {"", "none", "tanh", "same", "valid", "zeros", "constant", "reflect", "replicate", "circular", "border", "reflection"}
    | {"nearest", "nearest-exact", "bilinear", "bicubic", "linear", "trilinear", "area", "floor", "trunc", "ceil"}
    | {"mean", "sum", "prod", "max", "amax", "amin", "ij", "xy", "left", "right", "Infinity", "-Infinity", "NaN"}
)
_TREE_TYPES = ("builtins.tuple", "builtins.list", "builtins.dict")
_REFUSED_KEYS = {
    "as_graph": "control flow",
    "as_operator": "control flow",
    "as_custom_obj": "custom objects",
    "custom_obj": "custom objects",
    "token": "effect tokens",
    "buffer_mutation": "buffers that a run changes; export the module in eval mode",
    "parameter_mutation": "parameters that a run changes",
    "user_input_mutation": "inputs that a run changes",
    "loss_output": "training outputs",
    "gradient_to_parameter": "training outputs",
    "gradient_to_user_input": "training outputs",
}


def safe_archive(content: bytes, *, where: str) -> bytes:
    """An archive with the same program and weights that ``torch.export.load`` reads without unpickling.

    Args:
        content: the ``.pt2`` file.
        where: its name for errors.

    Raises:
        UsageError: not such an archive, or it holds what would need a pickle (``model_program``).
    """
    members = _Members(content, where=where)
    program = _Cleaner(where).program(members.json(f"models/{_MODEL}.json"))
    written: dict[str, bytes] = {f"models/{_MODEL}.json": _dump(program), f"data/sample_inputs/{_MODEL}.pt": b""}
    for folder, prefix in (("weights", "weight_"), ("constants", "tensor_")):
        config = members.json(f"data/{folder}/{_MODEL}_{folder}_config.json")
        entries = _Cleaner(where).payloads(config, prefix=prefix)
        written[f"data/{folder}/{_MODEL}_{folder}_config.json"] = _dump({"config": entries})
        for entry in entries.values():
            name = f"data/{folder}/{entry['path_name']}"
            written[name] = members.read(name, limit=DEFAULT_LIMITS.max_model_bytes)
    return _zipped({**_ENDINGS, **written})


class _Members:
    """The zip's members, by name without the archive's own folder; bounded in number and size."""

    def __init__(self, content: bytes, *, where: str) -> None:
        self._where = where
        try:
            self._zip = zipfile.ZipFile(io.BytesIO(content))
            infos = self._zip.infolist()
        except (zipfile.BadZipFile, ValueError, OSError) as e:
            raise _refusal("not an archive that torch.export.save wrote", where, actual=str(e)) from e
        if len(infos) > MAX_MEMBERS or sum(info.file_size for info in infos) > DEFAULT_LIMITS.max_model_bytes:
            raise _refusal("the archive is too large", where, actual=f"{len(infos)} members")
        self._infos = {info.filename.partition("/")[2]: info for info in infos}
        if len(self._infos) != len(infos) or len({info.filename.partition("/")[0] for info in infos}) != 1:
            raise _refusal("two members of the archive have the same name", where)
        for name in self._infos:
            if name.startswith("data/aotinductor/"):
                raise _refusal("the archive holds compiled code", where, actual=name[:120])
            if name.startswith("models/") and name != f"models/{_MODEL}.json":
                raise _refusal("the archive holds another program than 'model'", where, actual=name[:120])

    def read(self, name: str, *, limit: int) -> bytes:
        info = self._infos.get(name)
        if info is None:
            raise _refusal("a part of the program is missing", self._where, actual=name[:120])
        if info.file_size > limit:
            raise _refusal("a part of the program is too large", self._where, actual=f"{name[:120]}: {info.file_size} bytes")
        try:
            with self._zip.open(info) as file:
                data = file.read(info.file_size + 1)
        except (zipfile.BadZipFile, NotImplementedError, RuntimeError, OSError, ValueError, EOFError) as e:
            raise _refusal("a part of the program cannot be read", self._where, actual=f"{name[:120]}: {e}") from e
        if len(data) != info.file_size:
            raise _refusal("a part of the program has another size than it says", self._where, actual=name[:120])
        return data

    def json(self, name: str) -> dict[str, Any]:
        try:
            value = json.loads(self.read(name, limit=MAX_JSON_BYTES))
        except (ValueError, RecursionError) as e:
            raise _refusal("a part of the program is not JSON", self._where, actual=name[:120]) from e
        if not isinstance(value, dict):
            raise _refusal("a part of the program is not a JSON object", self._where, actual=name[:120])
        return value


class _Cleaner:
    """Copies the JSON of a program, checking every key and value; what is left out is named in the module's text."""

    def __init__(self, where: str) -> None:
        self._where = where
        self._special: dict[str, Callable[[str], str]] = {
            "target": self._operator,
            "as_string": self._word,
            "expr_str": self._expression,
            "in_spec": self._tree,
            "out_spec": self._tree,
            "type": self._device,
        }

    def program(self, value: Mapping[str, Any]) -> dict[str, Any]:
        """The ``ExportedProgram`` message, without metadata and guard code."""
        module = self._mapping(value, "graph_module")
        calls = module.get("module_call_graph")
        root = [entry for entry in calls if isinstance(entry, dict) and entry.get("fqn") == ""] if isinstance(calls, list) else []
        graph = self._mapping(module, "graph")
        nodes = graph.get("nodes")
        if len(root) != 1 or not isinstance(nodes, list):
            raise self._refused("the program's structure is unknown")
        bare = [{**node, "metadata": {}} if isinstance(node, dict) else node for node in nodes]
        return {
            "graph_module": {
                "graph": self._copy({**graph, "nodes": bare, "custom_obj_values": {}}),
                "signature": self._copy(self._mapping(module, "signature")),
                "module_call_graph": self._copy(root),
                "metadata": {},
                "treespec_namedtuple_fields": {},
            },
            "opset_version": self._copy(self._mapping(value, "opset_version")),
            "range_constraints": self._ranges(self._mapping(value, "range_constraints")),
            "schema_version": self._copy(self._mapping(value, "schema_version")),
            "verifiers": [self._dialect(name) for name in value.get("verifiers") or []],
            "torch_version": "",
            "guards_code": [],
        }

    def payloads(self, value: Mapping[str, Any], *, prefix: str) -> dict[str, Any]:
        """The list of weights or constants: raw numbers only."""
        entries = {}
        for name, entry in self._mapping(value, "config").items():
            if not isinstance(entry, dict) or entry.get("use_pickle") is not False:
                raise self._refused("weights or constants are pickled", actual=name)
            path = entry.get("path_name")
            if not isinstance(path, str) or not re.fullmatch(rf"{prefix}\d{{1,6}}", path):
                raise self._refused("constants are not plain tensors", actual=str(path))
            entries[self._name(name)] = self._copy(entry)
        return entries

    def _mapping(self, value: Mapping[str, Any], key: str) -> dict[str, Any]:
        found = value.get(key)
        if not isinstance(found, dict):
            raise self._refused("the program's structure is unknown", actual=f"no {key}")
        return found

    def _copy(self, value: Any, key: str = "", depth: int = 0) -> Any:
        if depth > _MAX_DEPTH:
            raise self._refused("the program is nested too deeply")
        if isinstance(value, dict):
            for inner in value.keys() & _REFUSED_KEYS.keys():
                raise self._refused(f"the program has {_REFUSED_KEYS[inner]}")
            return {self._name(inner): self._copy(item, inner, depth + 1) for inner, item in value.items()}
        if isinstance(value, list):
            return [self._copy(item, key, depth + 1) for item in value]
        if isinstance(value, str):
            return self._special.get(key, self._name)(value)
        if isinstance(value, bool) or value is None:
            return value
        if isinstance(value, int) and -(2**63) <= value < 2**63:
            return value
        if isinstance(value, float):
            return value
        raise self._refused("a number of the program is out of range", actual=key)

    def _ranges(self, value: Mapping[str, Any]) -> dict[str, Any]:
        for symbol in value:
            if not SYMBOL.fullmatch(symbol):
                raise self._refused("a size has an unknown name", actual=symbol)
        copied: dict[str, Any] = self._copy(value)
        return copied

    def _name(self, text: str) -> str:
        is_name = len(text) <= _MAX_TEXT and _DOTTED.fullmatch(text) and "__" not in text[:2]
        if text and (not is_name or any(iskeyword(part) for part in text.split("."))):
            raise self._refused("a name of the program is not a plain name", actual=text)
        return text

    def _word(self, text: str) -> str:
        if text not in _WORDS:
            raise self._refused("the program passes text to an operator", actual=text)
        return text

    def _operator(self, text: str) -> str:
        found = _OPERATOR.fullmatch(text)
        if text not in _SCALAR_OPERATORS and (found is None or found[1] in _FILE_OPERATORS):
            raise self._refused("the program uses an operator that is not in ATen", actual=text)
        return text

    def _expression(self, text: str) -> str:
        """A size: sympy's own notation, which torch evaluates as Python."""
        if len(text) > _MAX_TEXT or not is_arithmetic(text):
            raise self._refused("a size of the program is more than arithmetic", actual=text)
        return text

    def _dialect(self, name: object) -> str:
        """Which rules the program's graph keeps; torch checks it by them."""
        if name not in ("TRAINING", "ATEN"):
            raise self._refused("the program is of a dialect for other devices", actual=str(name))
        return str(name)

    def _device(self, text: str) -> str:
        if text != "cpu":
            raise self._refused("the program is not on the CPU", actual=text, hint="module.cpu(), then export it again")
        return text

    def _tree(self, text: str) -> str:
        """How arguments and results are nested: tuples, lists and dictionaries of tensors."""
        try:
            version, tree = json.loads(text)
        except (ValueError, TypeError, RecursionError) as e:
            raise self._refused("the nesting of the program's arguments is unknown") from e
        if version != 1:
            raise self._refused("the nesting of the program's arguments is unknown", actual=str(version))
        return json.dumps([1, self._branch(tree, 0)])

    def _branch(self, tree: Any, depth: int) -> dict[str, Any]:
        if not isinstance(tree, dict) or depth > _MAX_DEPTH:
            raise self._refused("the nesting of the program's arguments is unknown")
        kind, context, children = tree.get("type"), tree.get("context"), tree.get("children_spec")
        if kind is not None and kind not in _TREE_TYPES:
            raise self._refused("the program takes or gives objects of a class", actual=str(kind))
        keys = json.loads(context) if isinstance(context, str) and len(context) <= MAX_JSON_BYTES else context
        if keys is not None and not (isinstance(keys, list) and all(isinstance(item, str) for item in keys)):
            raise self._refused("the nesting of the program's arguments is unknown", actual=str(context))
        clean = None if kind is None else json.dumps(None if keys is None else [self._name(item) for item in keys])
        inner = children if isinstance(children, list) else []
        return {"type": kind, "context": clean, "children_spec": [self._branch(child, depth + 1) for child in inner]}

    def _refused(self, what: str, *, actual: str | None = None, hint: str | None = None) -> UsageError:
        return _refusal(what, self._where, actual=None if actual is None else actual[:120], hint=hint)


def _refusal(what: str, where: str, *, actual: str | None = None, hint: str | None = None) -> UsageError:
    return UsageError(
        what,
        code="model_program",
        where=where,
        expected="a program on the CPU in eval mode, of ATen operators and raw weights, as torch.export.save writes it",
        actual=actual,
        hint=hint or "export the module to ONNX (torch.onnx.export) and give that file, or give module:function",
    )


def _dump(value: object) -> bytes:
    return json.dumps(value, sort_keys=True).encode()


def _zipped(members: Mapping[str, bytes]) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        for name, data in sorted(members.items()):
            archive.writestr(zipfile.ZipInfo(f"program/{name}"), data)
    return file.getvalue()
