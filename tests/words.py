"""Check the words: `python tests/words.py [--all] [PATH ..]` prints FILE:LINE, a word, and what to use instead.

Names are checked where they are defined; phrases in docstrings, comments, strings and Markdown.
"""

from __future__ import annotations

import argparse
import ast
import io
import os
import re
import sys
import tokenize
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]

# Names that tell nothing of what they hold, and names that have given way to the field's own. The whole name counts.
NAMES = {
    **dict.fromkeys("found seen known given whole how but only again".split(), "a name for what it holds"),
    **dict.fromkeys("asked wish wishes".split(), "constraints, criteria, or the name of the option"),
    "maker": "producer",
    "makers": "producers",
    "widest": "maximal, or the noun that is meant",
    "apart": "barriers",
    "halves": "fp16 assignment",
    "joint": "equalization pair",
    "joints": "equalization pairs",
    "tally": "observer, counts",
    "remotes": "bench workers",
    "ranging": "range search",
    "watched": "observed",
}

# Names of classes that have given way; as variables they are harmless.
CLASSES = {
    "Placed": "placement",
    "Planned": "Candidate",
    "Port": "GraphValue, ModelInput, ..",
    "Ran": "RegionTiming, Trace",
    "Reach": "ChannelRange",
    "Stand": "BenchWorker",
}

# Parts of a name (`is_unfit`, `UnfitNodes`) that have given way.
PARTS = {
    "attendant": "worker process",
    "abandoned": "stale",
    "beaten": "dominated",
    "misfit": "calibration fallback",
    "puzzling": "explain",
    "sparing": "outlier columns",
    "spared": "outlier columns",
    "truest": "most accurate",
    "unfit": "calibration fallback",
    "unheld": "overflow",
    "wishes": "constraints",
}

# Phrases of prose, as regular expressions; a space stands for any white space.
PHRASES = {
    r"nobody": "name the subject: 'no code', 'no caller'",
    r"whoever|whosoever": "name the subject: 'callers that'",
    r"lest": "'so that .. not'",
    r"so many|so much(?= as)|so few": "the number, or 'as many as'",
    r"(?<!times\s)as far as": "say the limit",
    r"what it takes|all it takes": "'its cost', 'its time', or what is needed",
    r"what is asked(?: of| for)?": "'the request', 'the criteria'",
    r"of which": "a sentence of its own",
    r"hands? on": "'passes', 'returns'",
    r"(?:is|are|was|were|(?<!can\s)(?<!can't\s)be) told(?! (?:apart|from|by))": "'receives', 'is given as'",
    r"comes? to(?! lie)": "'is', 'amounts to'",
    r"what (?:reads?|feeds?|consumes?|follows?) (?:it|them|this|that|these)": "'its consumers', 'the next node'",
    r"what (?:makes?|produces?) (?:it|them)": "'its producer'",
    r"attendants?": "worker process",
    r"unheld": "overflow",
    r"beaten": "dominated",
    r"truest": "most accurate",
    r"misfits?": "calibration fallback",
    r"prepared (?:FP32 )?form": "optimized FP32",
    r"in int8, dropped": "'all-int8 plan; rejected'",
    r"the cut \d|`cut \d`": "mixed 1",
    r"says who": "name the subject",
}
_BEFORE = r"(?<![\w-])"
_PHRASES = [
    (re.compile(_BEFORE + "(?:" + p.replace(" ", r"\s+") + r")(?![\w-])", re.IGNORECASE), use)
    for p, use in PHRASES.items()
]
_PHRASES.append((re.compile(r"(?:\d(?:\.\d+)?|^)x\s+of\b"), "'1.19x as fast as'"))

# A first line that is a relative clause without its noun.
_CLAUSE = re.compile(r"(?:What|Who|How|Which|Why|Where)\b(?!')(?![^.]*\?)")

Finding = tuple[int, str, str]


def check_text(text: str, first_line: int) -> Iterator[Finding]:
    """The phrases in a piece of prose that starts at a line."""
    if " " not in text:
        return
    for pattern, use in _PHRASES:
        for match in pattern.finditer(text):
            yield first_line + text.count("\n", 0, match.start()), " ".join(match.group().split()), use


def check_name(name: str, line: int) -> Iterator[Finding]:
    """A defined name that is in one of the tables."""
    words = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower().strip("_")
    if name.strip("_") in CLASSES:
        yield line, name, CLASSES[name.strip("_")]
    elif words in NAMES:
        yield line, name, NAMES[words]
    else:
        yield from ((line, name, PARTS[part]) for part in words.split("_") if part in PARTS)


def defined(nodes: list[ast.AST]) -> Iterator[tuple[str, int]]:
    """Every name that a module defines, with its line: imported names and attributes of others are not its own."""
    for node in nodes:
        match node:
            case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.ClassDef():
                yield node.name, node.lineno
            case ast.arg():
                yield node.arg, node.lineno
            case ast.Name(ctx=ast.Store()):
                yield node.id, node.lineno
            case ast.Attribute(value=ast.Name("self" | "cls"), ctx=ast.Store()):
                yield node.attr, node.lineno
            case ast.alias(asname=str(name)):
                yield name, node.lineno
            case ast.ExceptHandler(name=str(name)):
                yield name, node.lineno


def docstrings(nodes: list[ast.AST]) -> Iterator[tuple[str, int]]:
    """Every docstring with its line."""
    for node in nodes:
        match node:
            case (
                ast.Module(body=[ast.Expr(ast.Constant(str(text)) as string), *_])
                | ast.ClassDef(body=[ast.Expr(ast.Constant(str(text)) as string), *_])
                | ast.FunctionDef(body=[ast.Expr(ast.Constant(str(text)) as string), *_])
            ):
                yield text, string.lineno


def comments(source: str) -> Iterator[tuple[str, int]]:
    """Every block of comments with its first line."""
    block: list[str] = []
    start = 0
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            start = start if block else token.start[0]
            block.append(token.string.lstrip("# "))
        elif token.type != tokenize.NL and block:
            yield "\n".join(block), start
            block = []


def check_python(source: str) -> Iterator[Finding]:
    """All that is wrong with the words of a module."""
    nodes = list(ast.walk(ast.parse(source)))
    reported = set()
    for name, line in defined(nodes):
        if name not in reported:  # once a file: it is renamed everywhere
            reported.add(name)
            yield from check_name(name, line)
    for text, line in docstrings(nodes):
        if clause := _CLAUSE.match(text.lstrip()):
            yield line, f"{clause.group()} ..", "begin with an imperative or the noun that is meant"
    for node in nodes:
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield from check_text(node.value, node.lineno)
    for text, line in comments(source):
        yield from check_text(text, line)


def check_file(path: Path) -> list[Finding]:
    """The findings of a Python or Markdown file, in the order of its lines."""
    source = path.read_text(encoding="utf-8")
    return sorted(set(check_python(source) if path.suffix == ".py" else check_text(source, 1)))


def files_of(paths: list[Path]) -> Iterator[Path]:
    """The Python and Markdown files at and below some paths."""
    for path in paths:
        inside = [path] if path.is_file() else sorted(path.rglob("*"))
        yield from (
            f for f in inside if f.suffix in (".py", ".md") and f.name not in ("words.py", "test_words.py")
        )


def main(arguments: list[str] | None = None) -> int:
    """Print what is found; return 1 where something is."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("paths", nargs="*", type=Path, help="default: the whole repository")
    options = parser.parse_args(arguments)
    if options.paths:
        files = list(files_of([path.resolve() for path in options.paths]))
    else:
        places = [ROOT / name for name in ("qtool", "tests", "docs", "benchmarks")]
        files = list(files_of([*places, *sorted(ROOT.glob("*.md"))]))
    count = 0
    for file in files:
        for line, word, use in check_file(file):
            print(f"{os.path.relpath(file)}:{line}: '{word}' -> {use}")
            count += 1
    print(f"{len(files)} files, {count} findings", file=sys.stderr)
    return int(count > 0)


if __name__ == "__main__":
    sys.exit(main())
