#!/usr/bin/env python3
"""Fails when a crate of the lock file cannot be used under a licence that deny.toml allows.

Usage: check-licences.py  (in the workspace; needs cargo and Python 3.11, nothing else)
It reads the SPDX expression that each crate declares; `cargo deny check licenses` also reads texts.
"""

import json
import pathlib
import re
import subprocess
import sys
import tomllib

ROOT = pathlib.Path(__file__).resolve().parent.parent


def allowed(expression: str, allow: set[str]) -> bool:
    """Whether the SPDX `expression` can be satisfied with the licences in `allow`."""
    # Old manifests separate alternatives by a slash.
    tokens = re.findall(r"\(|\)|[^\s()]+", expression.replace("/", " OR "))
    at = 0

    def peek() -> str | None:
        return tokens[at] if at < len(tokens) else None

    def take() -> str:
        nonlocal at
        at += 1
        return tokens[at - 1]

    def one() -> bool:
        token = take()
        if token == "(":
            inside = any_of()
            take()  # the closing parenthesis
            return inside
        if peek() == "WITH":
            take()
            token = f"{token} WITH {take()}"
        return token in allow

    def all_of() -> bool:
        ok = one()
        while peek() == "AND":
            take()
            ok = one() and ok
        return ok

    def any_of() -> bool:
        ok = all_of()
        while peek() == "OR":
            take()
            ok = all_of() or ok
        return ok

    return any_of()


def main() -> int:
    rules = tomllib.loads((ROOT / "deny.toml").read_text(encoding="utf-8"))
    allow = set(rules["licenses"]["allow"])
    banned = {entry["crate"] for entry in rules["bans"]["deny"]}
    metadata = json.loads(
        subprocess.run(
            ["cargo", "metadata", "--locked", "--format-version", "1", "--filter-platform", "x86_64-unknown-linux-gnu"],
            cwd=ROOT,
            check=True,
            stdout=subprocess.PIPE,
        ).stdout
    )
    bad = []
    packages = metadata["packages"]
    for package in packages:
        name = f"{package['name']} {package['version']}"
        if not package["license"]:
            bad.append(f"{name}: declares no licence")
        elif not allowed(package["license"], allow):
            bad.append(f"{name}: {package['license']} is not in the allow list of deny.toml")
        if package["name"] in banned:
            bad.append(f"{name}: banned in deny.toml")
        if package["source"] and not package["source"].startswith("registry+"):
            bad.append(f"{name}: comes from {package['source']}, not from crates.io")
    for line in bad:
        print(line, file=sys.stderr)
    print(f"{len(packages)} crates, {len(bad)} refused")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
