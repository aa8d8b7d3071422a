"""Tries claims and commits what they came to.

    python benchmarks/claims.py [NAME ...]

For each of these, or for all, writes `benchmarks/results/claims/NAME.json`: the claim as it was run, its figures with
their intervals, seeds, versions and machine; and the verdicts, which are shipped, in `configs/claim/verdicts.json`. One
that falls short is written like one that holds.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from omnidistill.configuration import claim_file, listing
from omnidistill.errors import RunError
from omnidistill.runs.claim import claim

HERE = Path(__file__).parent
RESULTS = HERE / "results" / "claims"
VERDICTS = HERE.parent / "configs" / "claim" / claim_file.VERDICTS
RUN = ("overrides", "runs", "relations")
"""What of a claim decides its figures."""


def record(name: str, results: Path = RESULTS) -> Path:
    """Runs a claim on one thread and writes its record."""
    found = claim(claim_file.read(name), more=["threads=1"])
    said = claim_file.content(name)
    document = {"command": f"omnidistill claim {name} threads=1", **found}
    document["claim"] = {key: said[key] for key in RUN if key in said}
    results.mkdir(parents=True, exist_ok=True)
    file = results / f"{name}.json"
    file.write_text(json.dumps(document, indent=1) + "\n")
    return file


def collect(results: Path = RESULTS, verdicts: Path = VERDICTS) -> None:
    """The verdicts of all records."""
    held = {file.stem: json.loads(file.read_text())["holds"] for file in sorted(results.glob("*.json"))}
    verdicts.write_text(json.dumps(held, indent=1) + "\n")


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", metavar="NAME")
    failed = False
    for name in parser.parse_args().names or listing.names("claim"):
        try:
            print(record(name), flush=True)
        except RunError as error:
            failed = True
            print(f"{name}: {error}", file=sys.stderr)
        collect()
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
