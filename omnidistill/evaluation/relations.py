"""Whether the relations of a claim hold of the metrics.json of its runs.

Two figures with intervals are told apart by them: better is better beyond both, no worse is not worse beyond both. The
intervals of one run are of the same resamples, and those of a difference are narrower, so this errs against the claim.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from omnidistill.configuration.claim_file import Relation, Spot
from omnidistill.errors import RunError, UserError

Document = Mapping[str, Any]
Range = tuple[float, float, float]
"""The low end of its interval, a figure, the high end; all three the same where nothing is known of it."""


def judge(relation: Relation, documents: Mapping[str, Document]) -> dict[str, Any]:
    """The figure of a relation: `{"figure", "interval", "holds"}`, and what it is held `against`.

    Raises:
        UserError: a metric that the task does not have.
        RunError: there is no gap to close where the claim has one.
    """
    document = documents[relation.run]
    if relation.kind in ("monotone", "not_monotone"):
        return _monotone(relation, document)
    assert relation.of is not None
    if relation.kind == "gap":
        return _gap(relation, relation.of, document)
    value = _range(relation.of, relation.metric, documents)
    if relation.than is None:
        assert relation.value is not None
        other = (relation.value, relation.value, relation.value)
    else:
        other = _range(relation.than, relation.metric, documents)
    primary = document["primary"]
    lower = relation.kind == "below" or (
        relation.kind in ("better", "no_worse") and primary["better"] == "lower"
    )
    found: dict[str, Any] = {"figure": value[1], "interval": _ends(value), "against": other[1]}
    if relation.than is not None:
        found["against_interval"] = _ends(other)
    return {**found, "holds": _holds(relation, value, other, lower)}


def _holds(relation: Relation, value: Range, other: Range, lower: bool) -> bool:
    sign = 1.0 if lower else -1.0
    factor = 1.0 / relation.ratio if lower else relation.ratio
    goal = sorted(sign * factor * x for x in other)
    mine = sorted(sign * x for x in value)
    if relation.kind == "no_worse":
        return mine[0] <= goal[-1]
    if relation.kind == "better":
        return mine[-1] < goal[0]
    return mine[1] <= goal[1]  # below, above: the figures themselves


def _monotone(relation: Relation, document: Document) -> dict[str, Any]:
    """The figures at all step counts, and between which of them quality falls beyond the interval of the difference."""
    name, wanted = document["primary"]["name"], set(relation.steps)
    points = [point for point in document["student"] if point["steps"] in wanted]
    falls = [list(pair) for pair in document["falls"] if pair[1] in wanted]
    if lacking := [point["steps"] for point in points if point["interval"] is None]:
        raise RunError(
            f"the figure at {lacking[0]} steps has no interval, so nothing can be said of its order"
        )
    figures = {str(point["steps"]): point["metrics"][name] for point in points}
    ends = {str(point["steps"]): point["interval"] for point in points}
    holds = bool(falls) == (relation.kind == "not_monotone")
    return {"figure": figures, "interval": ends, "falls": falls, "holds": holds}


def _gap(relation: Relation, spot: Spot, document: Document) -> dict[str, Any]:
    value = document["gap_closed"].get(str(spot.steps))
    if value is None:
        raise RunError(f"the teacher has no gap to close at {spot.steps} steps")
    found = {"figure": value, "interval": document["gap_interval"].get(str(spot.steps))}
    return {**found, "against": relation.value, "holds": value >= relation.value}


def _range(spot: Spot, metric: str | None, documents: Mapping[str, Document]) -> Range:
    document = documents[spot.run]
    points = {point["steps"]: point for point in document[spot.model]}
    point = points[max(points) if spot.steps is None else spot.steps]
    primary = document["primary"]["name"]
    name = metric or primary
    metrics = {**point["metrics"], "nfe": point["nfe"]} if name == "nfe" else point["metrics"]
    if name not in metrics:
        raise UserError(f"{spot} has no metric '{name}'; it has {', '.join(sorted(metrics))}")
    value = metrics[name]
    low, high = (point["interval"] if name == primary else None) or (value, value)
    return low, value, high


def _ends(values: Range) -> list[float] | None:
    return None if values[0] == values[2] else [values[0], values[2]]


def words(relation: Relation) -> str:
    """A relation in a line, by which its figure is called."""
    kind = relation.kind.replace("_", " ")
    if relation.steps:
        return f"{relation.run} {kind} at {','.join(map(str, relation.steps))}"
    if relation.kind == "gap":
        return f"{relation.of} gap closed >= {relation.value:g}"
    metric = f" {relation.metric}" if relation.metric else ""
    other = f"{relation.value:g}" if relation.than is None else str(relation.than)
    ratio = f" by {relation.ratio:g}" if relation.ratio != 1 else ""
    middle = "" if relation.kind in ("below", "above") else " than"
    return f"{relation.of}{metric} {kind}{middle} {other}{ratio}"
