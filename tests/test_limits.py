"""Limits that keep the code readable: short functions with few parameters, and nothing at module level that changes.

State at module level outlives whoever made it: caches keyed by model kept models alive, a counter made one benchmark
depend on another, and two conversations shared what each believed its own. A constant is immutable, and a cache belongs
to an object.
"""

import ast
import dataclasses
import enum
import functools
import importlib
import re
import types
import typing
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

PACKAGE = Path(__file__).parents[1] / "src" / "falconer"
MAX_LINES, MAX_PARAMETERS = 60, 8

# Functions whose result is kept for later calls, and why that is right: pure functions of text, of a bounded size. A
# cache of anything else belongs to an object that somebody owns and closes.
CACHES = {
    "data.language._identifier": "one model of languages, which takes a second to load",
    "data.language.script_of": "letters repeat",
    "data.leakage.normalise": "persona lines and replies are compared across splits again and again",
    "data.text.natural": "a dialogue's lines stand in many examples",
    "data.text.spaced": "as `natural`",
    "evaluate.text.row.field_name": "each row of a file has the same names",
    "evaluate.text.words._kind": "characters repeat",
    "evaluate.text.words._rouge_tokenizer": "one tokenizer, which compiles its patterns",
    "evaluate.text.words.bleu_tokens": "one tokenizer for each language; some load a dictionary",
    "evaluate.text.words.clean": "a reply is counted by a dozen metrics",
    "evaluate.text.words.rouge_tokens": "as `clean`",
    "evaluate.text.words.words": "as `clean`",
}

FILES = sorted(PACKAGE.rglob("*.py"))
Function = ast.FunctionDef | ast.AsyncFunctionDef


def module_name(path: Path) -> str:
    """Return a file's name as it stands behind `falconer.`; "" for the package itself."""
    return ".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix("__init__").removesuffix(".")


NAMES = {path: module_name(path) for path in FILES}
every_file = pytest.mark.parametrize("path", FILES, ids=[NAMES[path] or "falconer" for path in FILES])


@functools.cache  # each rule asks for each file again
def parse(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


def decorators(function: Function) -> list[str]:
    """Return the decorators as written, without what they are called with."""
    return [ast.unparse(node.func if isinstance(node, ast.Call) else node) for node in function.decorator_list]


def is_exempt(function: Function) -> bool:
    """Tell whether a function takes as many parameters as it must.

    A kernel's are pointers, strides and sizes, which Triton can't group; a command's are what its user may type, which
    typer reads from the signature. Both are exempt from no other rule of this project.
    """
    names = decorators(function)
    return "triton.jit" in names or any(re.fullmatch(r"\w*app\.(command|callback)", name) for name in names)


def functions(tree: ast.AST, prefix: str = "") -> Iterator[tuple[str, Function]]:
    """Yield (qualified name, node) of each function and method, inner ones too."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, Function):
            yield prefix + node.name, node
        named = isinstance(node, (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef))
        yield from functions(node, f"{prefix}{node.name}." if named else prefix)  # type: ignore[attr-defined]


def num_parameters(function: Function) -> int:
    """Count what a caller may pass; `self` and `cls` are not passed."""
    given = function.args
    names = [one.arg for one in (*given.posonlyargs, *given.args, *given.kwonlyargs, given.vararg, given.kwarg) if one]
    return len(names) - (names[:1] in (["self"], ["cls"]))


def too_large(tree: ast.Module) -> dict[str, str]:
    """Return the functions over a limit, with what is over."""
    found = {}
    for name, function in functions(tree):
        num_lines = (function.end_lineno or 0) - function.lineno + 1
        if is_exempt(function):
            continue
        if num_lines > MAX_LINES:
            found[name] = f"{num_lines} lines"
        elif num_parameters(function) > MAX_PARAMETERS:
            found[name] = f"{num_parameters(function)} parameters"
    return found


# What changes at module level


def own_names(body: list[ast.stmt]) -> set[str]:
    """Return the names that a module or a class assigns itself; what it imports is somebody else's."""
    found: set[str] = set()
    for statement in body:
        for node in _without_definitions(statement):
            if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
                found.add(node.id)
    return found - {"__all__"}  # `__all__` is a list by the language's convention, which tools expect


def _without_definitions(node: ast.AST) -> Iterator[ast.AST]:
    """Walk a statement, but not into functions, classes and comprehensions, whose names are their own."""
    yield node
    inner = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Lambda, ast.comprehension)
    for child in ast.iter_child_nodes(node):
        if not isinstance(child, inner):
            yield from _without_definitions(child)


# Nothing of these can be changed by who holds it.
CONSTANT = (
    type(None), bool, int, float, complex, str, bytes, range, type, types.FunctionType, types.BuiltinFunctionType,
    types.ModuleType, types.UnionType, types.GenericAlias, property, re.Pattern, enum.Enum, Path,
    typing.TypeVar, typing.TypeAliasType if hasattr(typing, "TypeAliasType") else typing.TypeVar,
    type(typing.Any), type(typing.Annotated[int, ""]), type(typing.Literal["x"]), type(typing.Callable[[], int]),
)  # fmt: skip
# Types of libraries, by name because not every one of them is installed everywhere. A typer application collects its
# commands as a module defines them; nothing is added later.
CONSTANT_BY_NAME = {
    "torch.dtype", "typer.main.Typer", "triton.language.core.constexpr", "triton.language.core.dtype",
    "triton.runtime.jit.JITFunction", "triton.runtime.interpreter.InterpretedFunction",
    "_collections._tuplegetter", "collections.abc._CallableGenericAlias", "typing._UnionGenericAlias", "typing.NewType",
}  # fmt: skip


def mutable_part(value: Any) -> str:
    """Return the type of what can be changed in a value, "" if nothing can."""
    kind = type(value)
    if isinstance(value, CONSTANT) or f"{kind.__module__}.{kind.__qualname__}" in CONSTANT_BY_NAME:
        return ""
    if isinstance(value, (tuple, frozenset)):
        return next((found for one in value if (found := mutable_part(one))), "")
    if isinstance(value, types.MappingProxyType):
        return next((found for pair in value.items() for one in pair if (found := mutable_part(one))), "")
    if dataclasses.is_dataclass(value) and kind.__dataclass_params__.frozen:  # type: ignore[attr-defined]
        fields = (getattr(value, field.name) for field in dataclasses.fields(value))
        return next((found for one in fields if (found := mutable_part(one))), "")
    if isinstance(value, functools.partial):
        return mutable_part((value.func, value.args, types.MappingProxyType(value.keywords)))
    return kind.__qualname__


def mutable_state(tree: ast.Module, values: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Return the names of a module, and of its classes, whose values can be changed, with the type that can."""
    found = {
        prefix + name: kind
        for name in sorted(own_names(tree.body))
        if name in values and (kind := mutable_part(values[name]))
    }
    for node in tree.body:
        if isinstance(node, ast.ClassDef) and node.name in values:
            # pydantic keeps its settings and what it made of the fields in dictionaries of the class.
            inner = {name: value for name, value in vars(values[node.name]).items() if name != "model_config"}
            inner = {name: value for name, value in inner.items() if not isinstance(value, types.MemberDescriptorType)}
            found |= mutable_state(ast.Module(node.body, []), inner, f"{prefix}{node.name}.")
    return found


def caches(tree: ast.Module) -> Iterator[tuple[str, str]]:
    """Yield (qualified name, what is wrong with it or "") of each function whose results functools keeps."""
    for name, function in functions(tree):
        for decorator in function.decorator_list:
            written = ast.unparse(decorator)
            if written.removeprefix("functools.").partition("(")[0] not in ("cache", "lru_cache"):
                continue
            bounded = re.search(r"\(maxsize=[\d_]+\)$", written)
            wrong = "" if bounded or num_parameters(function) == 0 else f"@{written} has no bound"
            yield name, "a method's cache keeps its object alive" if "." in name else wrong


@every_file
def test_functions_are_short_and_take_few_parameters(path: Path) -> None:
    found = {f"{NAMES[path]}.{name}": what for name, what in too_large(parse(path)).items()}
    assert not found, f"at most {MAX_LINES} lines and {MAX_PARAMETERS} parameters: split it, or give a record: {found}"


@every_file
def test_nothing_at_module_level_changes(path: Path) -> None:
    if path.stem == "__main__":
        return  # importing it runs the program; it assigns nothing
    module = importlib.import_module(f"falconer.{NAMES[path]}".rstrip("."))
    found = {f"{NAMES[path]}.{name}": kind for name, kind in mutable_state(parse(path), vars(module)).items()}
    assert not found, f"use MappingProxyType, frozenset or a tuple, or give it to an object that is closed: {found}"


@every_file
def test_no_function_changes_a_global_name(path: Path) -> None:
    found = [
        f"line {node.lineno}: {ast.unparse(node)}" for node in ast.walk(parse(path)) if isinstance(node, ast.Global)
    ]
    assert not found


@every_file
def test_each_cache_is_bounded_and_has_a_reason(path: Path) -> None:
    for name, wrong in caches(parse(path)):
        assert not wrong, f"{NAMES[path]}.{name}: {wrong}"
        assert f"{NAMES[path]}.{name}" in CACHES, f"say in CACHES why {name} keeps its results"


def test_the_reasons_are_about_caches_that_exist() -> None:
    assert set(CACHES) == {f"{NAMES[path]}.{name}" for path in FILES for name, _ in caches(parse(path))}


# The rules themselves


SAMPLE = """
import itertools, weakref
from types import MappingProxyType
from collections import Counter, deque
from dataclasses import dataclass

__all__ = ["A"]
A: dict[str, int] = {}
B, (C, *D) = 1, [2, 3]
E = MappingProxyType({"a": (1, 2)})
F = MappingProxyType({"a": [1, 2]})
G = frozenset({1})
H = itertools.count()
I = weakref.WeakKeyDictionary()
J = (1, ("a", {2}))
K = (x for x in [1])
for L in ([],):
    pass
M = iter(())
N = deque()
O = Counter()
P = bytearray()
if (Q := [1]):
    R = lambda: {}
S = [x for x in (1, 2)]

@dataclass(frozen=True)
class Frozen:
    good: int = 1
    bad: tuple = ([],)

@dataclass
class Open:
    good: int = 1

class Holder:
    table = {}
    def method(self):
        inner = {}

T = Frozen()
U = Frozen(2, ())
V = Open()
"""


def test_whatever_can_be_changed_is_found() -> None:
    values: dict[str, Any] = {"__name__": "sample"}
    exec(SAMPLE, values)
    found = mutable_state(ast.parse(SAMPLE), values)
    assert set(found) == {*"ADFHIJKLMNOPQSTV", "Frozen.bad", "Holder.table"}
    assert found["J"] == "set" and found["F"] == "list" and found["T"] == "list" and found["V"] == "Open"


def test_lines_and_parameters_are_counted_as_they_stand() -> None:
    long = "def f():\n" + "    pass\n" * MAX_LINES
    assert too_large(ast.parse(long)) == {"f": "61 lines"}
    assert not too_large(ast.parse(long.replace("    pass\n", "", 1)))
    many = "def f(a, b, /, c, d=1, *e, f, g=2, **h): pass\n"
    assert not too_large(ast.parse(many))
    assert too_large(ast.parse(many.replace("a,", "a, z,"))) == {"f": "9 parameters"}
    method = "class A:\n    def m(self, a, b, c, d, e, f, g, h{}): pass\n"
    assert not too_large(ast.parse(method.format("")))
    assert too_large(ast.parse(method.format(", i"))) == {"A.m": "9 parameters"}
    inner = "def f():\n    def g(a, b, c, d, e, f, g, h, i): pass\n"
    assert too_large(ast.parse(inner)) == {"f.g": "9 parameters"}


def test_kernels_and_commands_are_exempt_and_nothing_else() -> None:
    signature = "def f(a, b, c, d, e, f, g, h, i): pass\n"
    for decorator in ("triton.jit", "app.command()", "data_app.command('show')", "app.callback()"):
        assert not too_large(ast.parse(f"@{decorator}\n{signature}")), decorator
    for decorator in ("cache", "contextmanager", "torch.jit", "app.commanding()"):
        assert too_large(ast.parse(f"@{decorator}\n{signature}")), decorator


@pytest.mark.parametrize(
    ("decorator", "wrong"),
    [
        ("cache", True), ("functools.cache", True), ("lru_cache", True), ("lru_cache(maxsize=None)", True),
        ("lru_cache(maxsize=10_000)", False), ("functools.lru_cache(maxsize=2)", False),
    ],
)  # fmt: skip
def test_a_cache_without_a_bound_is_found(decorator: str, wrong: bool) -> None:
    ((name, found),) = caches(ast.parse(f"@{decorator}\ndef f(text): pass\n"))
    assert name == "f" and bool(found) == wrong
    ((_, found),) = caches(ast.parse(f"@{decorator}\ndef f(): pass\n"))
    assert not found, "one result needs no bound"
    ((_, found),) = caches(ast.parse(f"class A:\n    @{decorator}\n    def f(self): pass\n"))
    assert "keeps its object alive" in found
