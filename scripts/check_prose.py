"""Count the words that make this project's English hard to read, and fail where they pile up.

    python scripts/check_prose.py            # what is over a limit; exit code 1 if anything is
    python scripts/check_prose.py --counts   # the counts of every file

It reads the docstrings, comments and texts of Python files, and all of Markdown, JavaScript and
HTML. British spellings are looked for in every file, identifiers included.
"""

from __future__ import annotations

import argparse
import ast
import io
import re
import subprocess
import sys
import tokenize
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]

# "What a server can say something about delivery by": a clause where a noun belongs. Some are good
# English, so they are counted per thousand words of docstrings, in a file and in all of them.
HEADLESS_WHAT = re.compile(r"\bwhat\b", re.IGNORECASE)
WHATS_PER_1000_WORDS = 4.0
WHATS_ALLOWED_IN_A_FILE = 2  # a short file has too few words for a share of them

# None of these is needed, in any text.
NEVER = {
    "whoever, whatever": re.compile(r"\b(?:who|what)(?:so)?ever\b", re.IGNORECASE),
    "told, tells (logs log, errors say)": re.compile(r"\b(?:told|tells?)\b(?! apart)", re.I),
    "is no (is not a)": re.compile(
        r"(?<!there )\b(?:is|are|was|were) no\b(?! (?:longer|more|less|fewer|good|different)\b)",
        re.IGNORECASE,
    ),
    "of its own": re.compile(r"\ban? \w+ of (?:its|his|her|their) own\b", re.IGNORECASE),
    "so many, so much": re.compile(
        r"(?<!not )\b(?:at|in|after|every|each) so (?:many|much)\b", re.I
    ),
    "to be had": re.compile(r"\bto be had\b", re.IGNORECASE),
    "British spelling": re.compile(r"\bcancell(?:ed|ing)\b", re.IGNORECASE),
}

# These are looked for in all of a file, so that code and prose use the same words. "Cancelled" is
# not one of them: asyncio spells its names so.
BRITISH = re.compile(
    r"colour|behaviour|honour|favour|neighbour|labour|flavour|afterwards|towards|recognis"
    r"|organis(?!m)|serialis|optimis(?!t)|initialis|normalis|summaris|catalogue|centre|grey|licence",
    re.IGNORECASE,
)

CODE_IN_PROSE = re.compile(r"```.*?```|``[^`]*``|`[^`\n]*`|https?://\S+", re.DOTALL)
PROSE = ("*.py", "*.md", "*.js", "*.html")
NO_PROSE = ("*.css", "*.cfg", "*.toml", "*.yml", "*.sh", "Makefile", ".ci/run", ".env.example")
EXEMPT = {"scripts/check_prose.py"}


def tracked(*patterns: str) -> list[Path]:
    """The files of the repository that match a pattern."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", *patterns],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    paths = map(Path, listed.stdout.splitlines())
    return [path for path in paths if str(path) not in EXEMPT and (ROOT / path).exists()]


def docstrings(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """The docstrings of a module: also those below an attribute."""
    for node in ast.walk(tree):
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
            for child in node.body:
                match child:
                    case ast.Expr(value=ast.Constant(value=str(text))):
                        yield child.lineno, text


def texts(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """The string literals that hold a sentence rather than a name."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and " " in node.value:
            yield node.lineno, node.value


def comments(source: str) -> Iterator[tuple[int, str]]:
    """The comments, each with its line."""
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            yield token.start[0], token.string


def prose(text: str) -> str:
    """The text without the code in it, and as many lines long."""
    return CODE_IN_PROSE.sub(lambda match: "\n" * match[0].count("\n"), text)


def faults(passages: Iterator[tuple[int, str]]) -> Iterator[tuple[int, str, str]]:
    """The line, the kind and the words of each pattern that a text should not have."""
    for first_line, passage in passages:
        text = prose(passage)
        for kind, pattern in NEVER.items():
            for match in pattern.finditer(text):
                yield first_line + text.count("\n", 0, match.start()), kind, match[0]


def main() -> int:
    """Print the complaints; the exit code is 1 if there are any."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--counts", action="store_true", help="Show the counts of every file.")
    parser.add_argument("paths", nargs="*", help="Look at these files or folders only.")
    arguments = parser.parse_args()

    complaints: list[str] = []
    words_in_all = whats_in_all = 0
    chosen = [path.rstrip("/") for path in arguments.paths]
    for path in tracked(*PROSE, *NO_PROSE):
        if chosen and not any(str(path) == c or str(path).startswith(f"{c}/") for c in chosen):
            continue
        source = (ROOT / path).read_text(encoding="utf-8")
        complaints += [
            f"{path}:{line}: British spelling: {match[0]!r}"
            for line, text in enumerate(source.splitlines(), start=1)
            for match in BRITISH.finditer(text)
        ]
        if not any(path.match(pattern) for pattern in PROSE):
            continue
        passages: Iterator[tuple[int, str]] = iter([(1, source)])
        words = whats = 0
        if path.suffix == ".py":
            tree = ast.parse(source)
            documented = [prose(text) for _, text in docstrings(tree)]
            words = sum(len(re.findall(r"[A-Za-z']+", text)) for text in documented)
            whats = sum(len(HEADLESS_WHAT.findall(text)) for text in documented)
            passages = iter([*texts(tree), *comments(source)])
        found = sorted(set(faults(passages)))
        complaints += [f"{path}:{line}: {kind}: {text!r}" for line, kind, text in found]
        share = 1000 * whats / max(1, words)
        if whats > WHATS_ALLOWED_IN_A_FILE and share > WHATS_PER_1000_WORDS:
            complaints.append(f"{path}: {whats} 'what' in {words} words of docstrings")
        if str(path).startswith("redvsblue_telemetry/"):
            words_in_all, whats_in_all = words_in_all + words, whats_in_all + whats
        if arguments.counts:
            kinds = Counter(kind for _, kind, _ in found)
            counted = ", ".join(f"{kind.partition(' (')[0]} {n}" for kind, n in kinds.items())
            print(f"{path}: {words} words, what {whats} ({share:.1f} per 1,000); {counted or '-'}")
    share = 1000 * whats_in_all / max(1, words_in_all)
    summary = f"docstrings of the package: {share:.1f} 'what' per 1,000 of {words_in_all:,} words"
    if share > WHATS_PER_1000_WORDS:
        complaints.append(f"{summary}; at most {WHATS_PER_1000_WORDS:g}")
    print("\n".join([*complaints, summary]))
    return 1 if complaints else 0


if __name__ == "__main__":
    sys.exit(main())
