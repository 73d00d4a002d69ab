"""Text that comes with every CPython: its manual's topics and the standard library's docstrings."""

from __future__ import annotations

import ast
import sysconfig
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from pydoc_data.topics import topics

from d2v.samples import SourceItem

MIN_CHARACTERS = 40
"""Shorter docstrings ("Return x.") say too little."""
LEFT_OUT = frozenset(
    (
        "__pycache__",
        "dist-packages",
        "ensurepip",
        "idlelib",
        "lib2to3",
        "pydoc_data",
        "site-packages",
        "test",
        "tests",
        "turtledemo",
    )
)
"""Folders with tests, data, or what does not belong to the standard library."""
FAMILIES = {
    "archives": ("bz2", "gzip", "lzma", "pathlib", "shutil", "tarfile", "tempfile", "zipfile"),
    "asyncio": ("asyncio",),
    "email": ("email", "imaplib", "mailbox", "poplib", "smtplib"),
    "importing": ("importlib", "modulefinder", "pkgutil", "runpy", "zipimport"),
    "inspection": ("ast", "bdb", "dis", "inspect", "pdb", "pydoc", "symtable", "traceback"),
    "logging": ("logging",),
    "numbers": ("_pydecimal", "fractions", "ipaddress", "numbers", "random", "statistics"),
    "processes": ("concurrent", "multiprocessing", "queue", "subprocess", "threading"),
    "testing": ("doctest", "unittest"),
    "web": ("http", "socketserver", "urllib", "wsgiref", "xmlrpc"),
    "windows": ("tkinter", "turtle"),
    "xml": ("html", "xml"),
}
"""Label -> modules, after the chapters of the library's manual; the other modules have no label."""
_OF_MODULE = {module: family for family, modules in FAMILIES.items() for module in modules}
_Documented = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef


def _pydoc() -> Iterator[SourceItem]:
    """Topics, then the docstrings of file after file. What stands in one file forms a group."""
    for name, text in sorted(topics.items()):
        yield SourceItem(name=f"topics/{name}", content=text.encode())
    root = Path(sysconfig.get_path("stdlib"))
    for path in _modules(root):
        yield from _docstrings(path, path.relative_to(root).as_posix())


def _modules(folder: Path) -> Iterator[Path]:
    """Not by `listing.files`, which would walk through all of site-packages."""
    for path in sorted(folder.iterdir()):
        if path.suffix == ".py":
            yield path
        elif path.name not in LEFT_OUT and path.is_dir():
            yield from _modules(path)


def _docstrings(path: Path, name: str) -> Iterator[SourceItem]:
    """Read from the source text: importing modules only to read them would run them."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # old modules have escapes that Python warns of
        tree = ast.parse(path.read_bytes())
    label = _OF_MODULE.get(name.split("/")[0].removesuffix(".py"))
    for place, node in [("module", tree), *_definitions(tree, "")]:
        text = ast.get_docstring(node)
        if text is not None and len(text) >= MIN_CHARACTERS:
            yield SourceItem(name=f"{name}:{place}", content=text.encode(), label=label, group=name)


def _definitions(node: ast.AST, prefix: str) -> Iterator[tuple[str, _Documented]]:
    """Classes and functions below a node, outer ones first, with their dotted names."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            yield prefix + child.name, child
            yield from _definitions(child, f"{prefix}{child.name}.")
        elif isinstance(child, ast.If | ast.Try | ast.ExceptHandler | ast.With):
            yield from _definitions(child, prefix)


BUILTINS: dict[str, Callable[[], Iterator[SourceItem]]] = {"builtin:pydoc": _pydoc}
