"""Plans: the same content has the same hash, and whatever was damaged, edited or made for another model is refused."""

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from sprig.core.errors import PlanError
from sprig.core.plan import Plan, _digest
from sprig.core.types import Graph

Maker = Callable[..., Graph]


@pytest.fixture
def graph(made_graph: Maker) -> Graph:
    found = made_graph([4, 3], [(0, 1, 2.0)])
    frozen = replace(found.groups[1], reason="the model gives it back")
    return replace(found, groups=(found.groups[0], frozen))


@pytest.fixture
def plan() -> Plan:
    return Plan(
        keep={"g0": (0, 2)},
        sizes={"g0": 4},
        graph="made",
        method="m",
        config={"ridge": 1e-3},
        seed=7,
    )


def test_a_plan_survives_its_file(plan: Plan) -> None:
    again = Plan.from_json(plan.to_json())
    assert again == plan
    assert again.hash == plan.hash
    assert replace(plan, seed=8).hash != plan.hash
    assert replace(plan, keep={"g0": (0, 3)}).hash != plan.hash


def test_numbers_of_numpy_become_plain(plan: Plan) -> None:
    drawn = replace(plan, keep={"g0": tuple(np.array([0, 2]))}, sizes={"g0": np.int64(4)})
    assert drawn.to_json() == plan.to_json()


def test_masks(plan: Plan, graph: Graph) -> None:
    masks = plan.masks(graph)
    assert list(masks) == [0]
    assert masks[0].tolist() == [True, False, True, False]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"graph": "other"}, "belongs to another model"),
        ({"keep": {"g9": (0,)}}, "'g9', which the model does not have"),
        ({"sizes": {"g0": 5}}, "plan says 5 units, model has 4"),
        ({"keep": {"g0": ()}}, "keeps nothing"),
        ({"keep": {"g0": (2, 0)}}, "ascending, distinct"),
        ({"keep": {"g0": (0, 0)}}, "ascending, distinct"),
        ({"keep": {"g0": (0, 4)}}, r"in 0\.\.3"),
        ({"keep": {"g0": (-1, 2)}}, r"in 0\.\.3"),
        (
            {"keep": {"g1": (0,)}, "sizes": {"g1": 3}},
            "g1 may not be pruned: the model gives it back",
        ),
    ],
)
def test_plans_that_the_graph_does_not_allow(
    plan: Plan, graph: Graph, change: dict[str, Any], message: str
) -> None:
    with pytest.raises(PlanError, match=message):
        replace(plan, **change).masks(graph)


def test_a_frozen_group_may_be_named_if_it_stays_whole(plan: Plan, graph: Graph) -> None:
    whole = replace(plan, keep={"g1": (0, 1, 2)}, sizes={"g1": 3})
    assert whole.masks(graph)[1].all()


def edited(plan: Plan, **change: Any) -> str:
    """The plan's file with fields changed and a hash that fits."""
    raw = json.loads(plan.to_json())
    raw.update(change)
    raw = {k: v for k, v in raw.items() if v is not None and k != "sha256"}
    return json.dumps({**raw, "sha256": _digest(raw)})


def test_files_that_are_no_plans(plan: Plan) -> None:
    text = plan.to_json()
    with pytest.raises(PlanError, match=r"not valid JSON.*truncated or damaged"):
        Plan.from_json(text[: len(text) // 2])
    with pytest.raises(PlanError, match="plan was edited"):
        Plan.from_json(text.replace('"seed": 7', '"seed": 9'))
    with pytest.raises(PlanError, match="not a sprig plan"):
        Plan.from_json("[]")
    with pytest.raises(PlanError, match="plan version 99"):
        Plan.from_json(edited(plan, version=99))
    with pytest.raises(PlanError, match="lacks or garbles the field 'groups'"):
        Plan.from_json(edited(plan, groups=None))
    with pytest.raises(PlanError, match="lacks or garbles"):
        Plan.from_json(edited(plan, groups={"g0": {"size": 4, "keep": 3}}))
    assert Plan.from_json(edited(plan)) == plan
