"""Write docs/api.md, the reference of the public API, from the docstrings.

    python scripts/api_docs.py

It reads the source and runs none of it, so the page is the same on every Python. A test compares
the page with the code.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from itertools import zip_longest
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "redvsblue_telemetry"
PAGE = ROOT / "docs" / "api.md"

INTRODUCTION = """\
# API

Every public name, with its docstring.
This page is written by `python scripts/api_docs.py`; to change it, change the docstrings.
In a signature, arguments after `*` are passed by keyword only, those before `/` by position only.
"""

_WIDTH = 88  # columns of a signature

Function = ast.FunctionDef | ast.AsyncFunctionDef
Definition = Function | ast.ClassDef

# The sections of the page: a title, the module to import from, a sentence, and the names.
SECTIONS = [
    (
        "The SDK",
        "redvsblue_telemetry",
        "[Getting started](getting-started.md) shows how these are used.",
        [
            "start_telemetry",
            "stop_telemetry",
            "get_telemetry",
            "emit",
            "event_type",
            "user_journal_dir",
            "Telemetry",
            "TelemetryStats",
            "TelemetryEvent",
            "TelemetrySettings",
            "ConnectionState",
            "TelemetryError",
            "SettingsError",
            "InvalidEventError",
        ],
    ),
    (
        "The binding of an engine",
        "redvsblue_telemetry.engines",
        "`Telemetry.attach` returns it.",
        ["EngineBinding"],
    ),
    (
        "The parts of a client",
        "redvsblue_telemetry",
        "A `Telemetry` makes its own; games don't need these.",
        ["TelemetryStore", "TelemetryConnector"],
    ),
    (
        "For the tests of games",
        "redvsblue_telemetry.testing",
        "[Testing your game's telemetry](testing.md) shows how these are used.",
        ["record_events", "Events", "RecordedEvents", "RecordingServer"],
    ),
    (
        "A collector in a test",
        "redvsblue_telemetry.testing.collector",
        "It needs the extra `redvsblue-telemetry[collector]`.",
        ["RunningCollector", "CollectedEvents"],
    ),
    (
        "Records of a collector",
        "redvsblue_telemetry.collector.models",
        "`RunningCollector` returns these.",
        ["Session", "RejectedMessage"],
    ),
    (
        "Fixtures for pytest",
        "_redvsblue_telemetry_pytest",
        "They come with the package and need no import.",
        ["telemetry_events", "telemetry_collector"],
    ),
]
# Finding a definition.


def _file_of(module: str) -> Path:
    path = ROOT.joinpath(*module.split("."))
    return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")


def _tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def find(module: str, name: str) -> tuple[Definition, ast.Module]:
    """Return the definition of a name and the module that has it, following imports."""
    tree = _tree(_file_of(module))
    guarded = [node for test in tree.body if isinstance(test, ast.If) for node in test.body]
    for node in (*tree.body, *guarded):  # an import for the type checker is one, too
        if isinstance(node, Definition) and node.name == name and not _is_overload(node):
            return node, tree
        if isinstance(node, ast.ImportFrom) and name in [alias.name for alias in node.names]:
            package = (
                module if _file_of(module).name == "__init__.py" else module.rpartition(".")[0]
            )
            for _ in range(node.level - 1):
                package = package.rpartition(".")[0]
            return find(".".join(filter(None, [package, node.module])), name)
    raise LookupError(f"{module} does not define {name}")


# Types, as a reader needs them.


class _Spelled(ast.NodeTransformer):
    """Replaces the aliases of a module by their values, and quoted types by the types."""

    def __init__(self, tree: ast.Module) -> None:
        self._aliases = {
            target.id: node.value
            for node in tree.body
            if isinstance(node, ast.Assign)
            for target in node.targets
            if isinstance(target, ast.Name) and isinstance(node.value, (ast.Subscript, ast.BinOp))
        }

    def visit_Name(self, node: ast.Name) -> ast.AST:
        alias = self._aliases.get(node.id)
        return node if alias is None else self.visit(alias)

    def visit_Subscript(self, node: ast.Subscript) -> ast.AST:
        if isinstance(node.value, ast.Name) and node.value.id == "Literal":
            return node
        return self.generic_visit(node)

    def visit_Constant(self, node: ast.Constant) -> ast.AST:
        return ast.parse(node.value, mode="eval").body if isinstance(node.value, str) else node


def _type(annotation: ast.expr, tree: ast.Module) -> str:
    return ast.unparse(_Spelled(tree).visit(annotation))


def _signatures(function: Function, body: list[ast.stmt], tree: ast.Module) -> str:
    """Return the ways to call a function, one below the other; most have one."""
    overloads = [
        node
        for node in body
        if isinstance(node, Function) and node.name == function.name and _is_overload(node)
    ]
    ways = [_signature(function.name, way, tree) for way in overloads or [function]]
    return f"```py\n{chr(10).join(ways)}\n```"


def _signature(name: str, function: Function, tree: ast.Module) -> str:
    """Return how to call a function; one argument a line if one line is too short."""
    arguments = list(_arguments(function.args, tree))
    if arguments[:1] in (["self"], ["cls"]):
        arguments.pop(0)
    result = ""
    if function.returns is not None and function.name != "__init__":
        result = f" -> {_type(function.returns, tree)}"
    if len(line := f"{name}({', '.join(arguments)}){result}") <= _WIDTH:
        return line
    lines = "".join(f"    {argument},\n" for argument in arguments)
    return f"{name}(\n{lines}){result}"


def _arguments(arguments: ast.arguments, tree: ast.Module) -> Iterator[str]:
    positional = [*arguments.posonlyargs, *arguments.args]
    without_default = len(positional) - len(arguments.defaults)
    defaults = [*[None] * without_default, *arguments.defaults]
    for number, (argument, default) in enumerate(zip(positional, defaults, strict=True), start=1):
        yield _argument(argument, default, tree)
        if number == len(arguments.posonlyargs):
            yield "/"
    if arguments.vararg is not None:
        yield f"*{_argument(arguments.vararg, None, tree)}"
    elif arguments.kwonlyargs:
        yield "*"
    for argument, default in zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True):
        yield _argument(argument, default, tree)
    if arguments.kwarg is not None:
        yield f"**{_argument(arguments.kwarg, None, tree)}"


def _argument(argument: ast.arg, default: ast.expr | None, tree: ast.Module) -> str:
    text = argument.arg
    if argument.annotation is not None:
        text += f": {_type(argument.annotation, tree)}"
    if default is None:
        return text
    shown = ast.unparse(default)
    return f"{text} = {'...' if shown.startswith('_') else shown}"


# Docstrings, as Markdown.


def _inline(text: str) -> str:
    text = re.sub(r":\w+:`~?([^`]+)`", lambda match: f"`{match[1]}`", text)
    return text.replace("``", "`")


def markdown(docstring: str) -> str:
    """Return a docstring of the Google style as Markdown."""
    blocks = []
    for block in re.split(r"\n\s*\n", docstring.strip()):
        lines = block.splitlines()
        if re.fullmatch(r"(Args|Returns|Raises|Attributes):", lines[0]):
            title = {"Args:": "Arguments:"}.get(lines[0], lines[0])
            are_named = title != "Returns:"
            blocks.append(f"{title}\n\n{_items(lines[1:], are_named=are_named)}")
        elif all(line.startswith("    ") for line in lines):
            # "py" and not "python": these show a use, but not all of what is needed to run it.
            code = "\n".join(line[4:] for line in lines)
            if blocks and blocks[-1].endswith("\n```"):  # the same code, after a blank line
                blocks[-1] = f"{blocks[-1][:-4]}\n\n{code}\n```"
            else:
                blocks.append(f"```py\n{code}\n```")
        elif lines != ["::"]:
            blocks.append(_inline(" ".join(line.strip() for line in lines)).replace("::", ":"))
    return "\n\n".join(blocks)


def _items(lines: list[str], *, are_named: bool) -> str:
    """Return the items of a section as a list; without names, as a paragraph."""
    items: list[str] = []
    for line in lines:
        if line.startswith("        ") and items:  # the item goes on
            items[-1] += f" {line.strip()}"
        else:
            items.append(line.strip())
    if not are_named:
        return _inline(" ".join(items))
    named = (item.partition(": ") for item in items)
    return "\n".join(f"- `{name}`: {_inline(text)}" for name, _, text in named)


# The page.


def _attributes(owner: ast.ClassDef, tree: ast.Module) -> Iterator[str]:
    """Yield the fields, documented attributes and properties of a class, as items of a list."""
    bodies: Iterator[Any] = (getattr(node, "body", None) for node in ast.walk(owner))
    for body in (body for body in bodies if isinstance(body, list)):
        for statement, following in zip_longest(body, body[1:]):
            match following:
                case ast.Expr(value=ast.Constant(value=str(text))):
                    pass
                case _:
                    text = ""
            match statement:
                case ast.AnnAssign(target=ast.Name(id=name), annotation=annotation):
                    is_shown, kind = body is owner.body or text, f": {_type(annotation, tree)}"
                case ast.AnnAssign(target=ast.Attribute(attr=name), annotation=annotation):
                    is_shown, kind = text, f": {_type(annotation, tree)}"
                case ast.Assign(targets=[ast.Name(id=name) | ast.Attribute(attr=name)]):
                    is_shown, kind = text, ""
                case _:
                    continue
            if is_shown and not name.startswith("_"):
                yield _item(f"{name}{kind}", text)
    for node in owner.body:
        if isinstance(node, Function) and _decorators(node) == ["property"] and _is_public(node):
            assert node.returns is not None
            text = ast.get_docstring(node) or ""
            yield _item(f"{node.name}: {_type(node.returns, tree)}", text)


def _item(name: str, docstring: str) -> str:
    text = _inline(" ".join(docstring.split()))
    return f"- `{name}`: {text}" if text else f"- `{name}`"


def _decorators(function: Function) -> list[str]:
    return [ast.unparse(decorator) for decorator in function.decorator_list]


def _is_overload(node: Definition) -> bool:
    return isinstance(node, Function) and "overload" in _decorators(node)


def _is_public(node: Definition) -> bool:
    return not node.name.startswith("_")


def _class(owner: ast.ClassDef, tree: ast.Module) -> Iterator[str]:
    bases = [ast.unparse(base) for base in owner.bases]
    signature = f"class {owner.name}" + (f"({', '.join(bases)})" if bases else "")
    for node in owner.body:
        if isinstance(node, Function) and node.name == "__init__":
            constructor = _signature(owner.name, node, tree)
            if ": _" not in constructor:  # it takes something private: users don't call it
                signature += f"\n\n{constructor}"
    yield f"```py\n{signature}\n```"
    yield markdown(ast.get_docstring(owner) or "")
    if attributes := list(_attributes(owner, tree)):
        yield "Attributes:"
        yield "\n".join(attributes)
    for node in owner.body:
        if not isinstance(node, Function) or not _is_public(node) or _is_overload(node):
            continue
        if any(name == "property" or name.endswith(".setter") for name in _decorators(node)):
            continue
        yield f"#### `{owner.name}`: `{node.name}`"
        yield _signatures(node, owner.body, tree)
        yield markdown(ast.get_docstring(node) or "")


def page() -> str:
    """Return the text of the page."""
    parts, index = [], []
    for title, module, sentence, names in SECTIONS:
        parts.append(f"## {title}")
        is_imported = not module.startswith("_")
        parts.append(f"Import from `{module}`.\n{sentence}" if is_imported else sentence)
        links = []
        for name in names:
            definition, tree = find(module, name)
            links.append(f"[`{name}`](#{name.lower()})")
            parts.append(f"### `{name}`")
            if isinstance(definition, ast.ClassDef):
                parts += _class(definition, tree)
                continue
            if is_imported:
                parts.append(_signatures(definition, tree.body, tree))
            elif definition.returns is not None:
                (kind,) = re.findall(r"Iterator\[(\w+)\]", ast.unparse(definition.returns))
                parts.append(f"A `{kind}`.")
            parts.append(markdown(ast.get_docstring(definition) or ""))
        anchor = title.lower().replace(" ", "-")
        index.append(f"- [{title}](#{anchor}): {', '.join(links)}")
    return "\n\n".join([INTRODUCTION.strip(), "\n".join(index), *filter(None, parts)]) + "\n"


def main() -> None:
    """Write the page."""
    PAGE.write_text(page(), encoding="utf-8")


if __name__ == "__main__":
    main()
