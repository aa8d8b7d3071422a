"""What matching, on-policy distillation and rewards do where the truth is known, and on real data: docs/evidence.md.

    python benchmarks/evidence.py [NAME ...] [--again]
    python benchmarks/evidence.py --table

Each NAME of `EXPERIMENTS` is a few runs of `omnidistill distill`, one at a time on one thread. Of each run
`benchmarks/results/evidence/NAME.json` holds the command, the seed, figures with their intervals, warnings, calls,
versions and machine. A run that has a record with the same command is not run again unless `--again` says so. Last
comes the page.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from evidence_record import RESULTS
from evidence_runs import EXPERIMENTS as OTHERS
from evidence_steps import steps
from evidence_tables import page

EXPERIMENTS = {**OTHERS, "steps": steps}
PAGE = Path(__file__).parents[1] / "docs" / "evidence.md"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", metavar="NAME", choices=[*EXPERIMENTS, []])
    parser.add_argument("--again", action="store_true")
    parser.add_argument("--table", action="store_true")
    asked = parser.parse_args()
    if not asked.table:
        for name in asked.names or EXPERIMENTS:
            EXPERIMENTS[name](asked.again)
    records = {file.stem: json.loads(file.read_text()) for file in sorted(RESULTS.glob("*.json"))}
    PAGE.write_text(page(records))
    print(PAGE)


if __name__ == "__main__":
    main()
