#!/usr/bin/env python3
"""Fails when a relative link of a Markdown file leads nowhere, heading anchors included."""

import pathlib
import re
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")


def anchors(text: str) -> set[str]:
    """The anchors of the headings, as GitHub makes them."""
    found = set()
    for heading in re.findall(r"^#+ (.+)$", text, re.MULTILINE):
        plain = re.sub(r"[`*]|\[([^\]]*)\]\([^)]*\)", lambda m: m.group(1) or "", heading)
        found.add(re.sub(r"[^\w\- ]", "", plain.lower()).replace(" ", "-"))
    return found


def main() -> int:
    bad = 0
    files = [p for p in [*ROOT.glob("*.md"), *ROOT.glob("specs/**/*.md")]]
    for file in files:
        text = re.sub(r"```.*?```", "", file.read_text(encoding="utf-8"), flags=re.DOTALL)
        for target in LINK.findall(text):
            if re.match(r"[a-z]+:", target):
                continue
            path, _, anchor = target.partition("#")
            goal = (file.parent / path).resolve() if path else file
            if not goal.exists():
                print(f"{file.relative_to(ROOT)}: no {target}", file=sys.stderr)
                bad += 1
            elif anchor and goal.suffix == ".md" and anchor not in anchors(goal.read_text(encoding="utf-8")):
                print(f"{file.relative_to(ROOT)}: no heading for {target}", file=sys.stderr)
                bad += 1
    print(f"{len(files)} files, {bad} dead links")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
