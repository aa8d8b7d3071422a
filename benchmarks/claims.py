"""Tries claims and commits what they came to.

    python benchmarks/claims.py [NAME ...] [--seed S]

For each of these, or for all, writes `benchmarks/results/claims/NAME.json`: the claim as it was run, its figures with
their intervals, seeds, versions and machine; and the verdicts, which are shipped, in `configs/claim/verdicts.json`. One
that falls short is written like one that holds. With a seed every run takes it in place of its own, the record is
`benchmarks/results/claims/seed_S/NAME.json` and the verdict stands in `configs/claim/again.json`: one that hangs on
chance is found so.
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
SHIPPED = HERE.parent / "configs" / "claim"
RUN = ("overrides", "runs", "relations")
"""What of a claim decides its figures."""


def record(name: str, results: Path = RESULTS, seed: int | None = None) -> Path:
    """Runs a claim on one thread and writes its record."""
    found = claim(claim_file.read(name), more=["threads=1"], seed=seed)
    said = claim_file.content(name)
    command = f"omnidistill claim {name} threads=1" + ("" if seed is None else f" seed={seed}")
    results = results if seed is None else results / f"seed_{seed}"
    document = {"command": command, **found}
    document["claim"] = {key: said[key] for key in RUN if key in said}
    results.mkdir(parents=True, exist_ok=True)
    file = results / f"{name}.json"
    file.write_text(json.dumps(document, indent=1) + "\n")
    return file


def collect(results: Path = RESULTS, shipped: Path = SHIPPED) -> None:
    """The verdicts of all records."""
    held = {file.stem: json.loads(file.read_text())["holds"] for file in sorted(results.glob("*.json"))}
    (shipped / claim_file.VERDICTS).write_text(json.dumps(held, indent=1) + "\n")
    again: dict[str, dict[str, bool]] = {}
    for file in sorted(results.glob("seed_*/*.json")):
        seed = file.parent.name.removeprefix("seed_")
        again.setdefault(file.stem, {})[seed] = json.loads(file.read_text())["holds"]
    (shipped / claim_file.AGAIN).write_text(json.dumps(dict(sorted(again.items())), indent=1) + "\n")


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", metavar="NAME")
    parser.add_argument("--seed", type=int, metavar="S", help="of every run, in place of its own")
    asked = parser.parse_args()
    failed = False
    for name in asked.names or listing.names("claim"):
        try:
            print(record(name, seed=asked.seed), flush=True)
        except RunError as error:
            failed = True
            print(f"{name}: {error}", file=sys.stderr)
        collect()
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
