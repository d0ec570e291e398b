"""The mutants of a source text: single changes of Python (by its syntax) and Lua (by its words)."""

import ast
import re
from collections.abc import Iterator
from typing import Final, NamedTuple


class Mutant(NamedTuple):
    """One change.

    Attributes:
        start: of the replaced bytes.
        end: after them.
        text: what replaces them.
    """

    start: int
    end: int
    text: bytes

    def apply(self, source: bytes) -> bytes:
        """Return the source with this change."""
        return source[: self.start] + self.text + source[self.end :]

    def key(self, source: bytes) -> tuple[str, str]:
        """Return the line of the source where this change begins, before it and after it.

        The second one of several equal lines has ` (2)` after it, and so on.
        """
        line = _line(source, self.start)
        above = source[: source.rfind(b"\n", 0, self.start) + 1].decode().splitlines()
        number = 1 + sum(each.strip() == line for each in above)
        return line + f" ({number})" * (number > 1), _line(self.apply(source), self.start)

    def describe(self, source: bytes) -> str:
        """Return number of the line and change, for people."""
        number = source.count(b"\n", 0, self.start) + 1
        old = " ".join(source[self.start : self.end].decode().split())
        new = " ".join(self.text.decode().split())
        return f"{number}: {old[:60]} -> {new[:60] or 'nothing'}"


def _line(source: bytes, at: int) -> str:
    start, end = source.rfind(b"\n", 0, at) + 1, source.find(b"\n", at)
    return source[start:end].decode().strip()


_COMPARISONS: Final = {
    ast.Lt: "<=", ast.LtE: "<", ast.Gt: ">=", ast.GtE: ">", ast.Eq: "!=", ast.NotEq: "==",
    ast.Is: "is not", ast.IsNot: "is", ast.In: "not in", ast.NotIn: "in",
}  # fmt: skip
_ARITHMETIC: Final = {
    ast.Add: "-", ast.Sub: "+", ast.Mult: "+", ast.FloorDiv: "*", ast.Div: "*", ast.Mod: "*",
    ast.BitOr: "&", ast.BitAnd: "|", ast.LShift: ">>", ast.RShift: "<<",
}  # fmt: skip

_LUA: Final = (
    (re.compile(rb"=="), b"~="), (re.compile(rb"~="), b"=="), (re.compile(rb"<="), b"<"),
    (re.compile(rb">="), b">"), (re.compile(rb"(?<![<>=~])<(?!=)"), b"<="),
    (re.compile(rb"(?<![<>=~])>(?!=)"), b">="), (re.compile(rb" \+ "), b" - "),
    (re.compile(rb" - "), b" + "), (re.compile(rb" \* "), b" + "), (re.compile(rb" / "), b" * "),
    (re.compile(rb"\band\b"), b"or"), (re.compile(rb"\bor\b"), b"and"),
    (re.compile(rb"\bnot "), b""), (re.compile(rb"\btrue\b"), b"false"),
    (re.compile(rb"\bfalse\b"), b"true"), (re.compile(rb"(?m)^ +call\(.*\)$"), b""),
    (re.compile(rb"(?m)^ +redis\.call\(.*\)$"), b""), (re.compile(rb"\bmath\.max\b"), b"math.min"),
    (re.compile(rb"\bmath\.min\b"), b"math.max"),
)  # fmt: skip
_LUA_NUMBER: Final = re.compile(rb"(?<![\w.'%])\d+(?![\w.'])")
_LUA_COMMENT: Final = re.compile(rb"--[^\n]*")


def lua_mutants(source: bytes) -> list[Mutant]:
    """Return all mutants of a Lua script."""
    comments = [match.span() for match in _LUA_COMMENT.finditer(source)]
    found = [
        Mutant(match.start(), match.end(), text)
        for pattern, text in _LUA
        for match in pattern.finditer(source)
    ]
    found += [
        Mutant(match.start(), match.end(), b"%d" % (int(match[0]) + 1))
        for match in _LUA_NUMBER.finditer(source)
    ]
    return [each for each in found if not any(start <= each.start < end for start, end in comments)]


def python_mutants(source: bytes) -> list[Mutant]:
    """Return all mutants of a Python module."""
    text, tree = _Text(source), ast.parse(source)
    nodes = list(ast.walk(tree))
    skipped = {id(inner) for n in nodes for part in _types(n) for inner in ast.walk(part)}
    found: list[Mutant] = []
    for node in nodes:
        if id(node) in skipped:
            continue
        if isinstance(node, ast.expr):
            found += _operators(node, text)
            found += _values(node, text)
        elif isinstance(node, ast.stmt):
            found += _statements(node, text)
    return sorted(found)


class _Text:
    """The text of the nodes of a module."""

    def __init__(self, source: bytes) -> None:
        self._source = source
        lines = source.splitlines(keepends=True)
        self._lines = [sum(map(len, lines[:number])) for number in range(len(lines) + 1)]

    def span(self, node: ast.expr | ast.stmt) -> tuple[int, int]:
        end_line, end_column = node.end_lineno or 0, node.end_col_offset or 0
        start = self._lines[node.lineno - 1] + node.col_offset
        return start, self._lines[end_line - 1] + end_column

    def of(self, node: ast.expr | ast.stmt) -> bytes:
        start, end = self.span(node)
        text = self._source[start:end]
        plain = ast.Name | ast.Constant | ast.Attribute | ast.Call | ast.Subscript
        return text if isinstance(node, plain) else b"(%b)" % text

    def replaced(self, node: ast.expr | ast.stmt, new: bytes) -> Mutant:
        return Mutant(*self.span(node), new)


def _operators(node: ast.expr, text: _Text) -> Iterator[Mutant]:
    match node:
        case ast.Compare(left=left, ops=[op], comparators=[right]) if type(op) in _COMPARISONS:
            new = _COMPARISONS[type(op)].encode()
            yield text.replaced(node, b"(%b %b %b)" % (text.of(left), new, text.of(right)))
        case ast.BinOp(left=left, op=op, right=right) if type(op) in _ARITHMETIC:
            new = _ARITHMETIC[type(op)].encode()
            yield text.replaced(node, b"(%b %b %b)" % (text.of(left), new, text.of(right)))
        case ast.BoolOp(values=values, op=op):
            word = b" or " if isinstance(op, ast.And) else b" and "
            yield text.replaced(node, b"(%b)" % word.join(map(text.of, values)))
            yield text.replaced(node, text.of(values[0]))
        case ast.UnaryOp(op=ast.Not(), operand=operand):
            yield text.replaced(node, b"bool(%b)" % text.of(operand))


def _values(node: ast.expr, text: _Text) -> Iterator[Mutant]:
    match node:
        case ast.Constant(value=bool() as value):
            yield text.replaced(node, f"{not value}".encode())
        case ast.Constant(value=int() as value):
            yield text.replaced(node, b"%d" % (value + 1))
        case ast.IfExp(test=test, body=body, orelse=other):
            swapped = text.of(other), text.of(test), text.of(body)
            yield text.replaced(node, b"(%b if %b else %b)" % swapped)


def _statements(node: ast.stmt, text: _Text) -> Iterator[Mutant]:
    match node:
        case ast.If(test=test) | ast.While(test=test):
            yield text.replaced(test, b"not %b" % text.of(test))
        case ast.Expr(value=ast.Call() | ast.Await()) | ast.AugAssign() | ast.Delete():
            yield text.replaced(node, b"pass")
        case ast.Return(value=ast.expr() as value) if not isinstance(value, ast.Constant):
            yield text.replaced(value, b"None")
        case ast.Break() | ast.Continue():
            yield text.replaced(node, b"pass")


def _types(node: ast.AST) -> Iterator[ast.AST]:
    """Yield the parts of a node that are not executed, or only report: types, and log events."""
    match node:
        case ast.FunctionDef() | ast.AsyncFunctionDef():
            yield from filter(None, [node.returns])
            yield from (
                each.annotation
                for each in [*node.args.args, *node.args.kwonlyargs]
                if each.annotation is not None
            )
        case ast.AnnAssign():
            yield node.annotation
        case ast.Expr(value=ast.Call(func=ast.Attribute(value=ast.Name(id="log" | "_log")))):
            yield node
