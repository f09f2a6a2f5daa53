"""Back from a run folder: load the small network, recompute every claim."""

import copy
import os
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from torch import nn

from sprig.core import certify, optimality
from sprig.core.batches import Triples, as_batches, count, unpack
from sprig.core.errors import StoreError
from sprig.core.example import restore
from sprig.core.folder import MODEL, PLAN, RunFolder
from sprig.core.path import Path
from sprig.core.plan import Plan
from sprig.core.records import read
from sprig.core.reload import reshape
from sprig.core.store import read_certificate, sha256_file, sha256_model
from sprig.core.types import Certificate, Claim
from sprig.core.workbench import Progress, Workbench, silent
from sprig.methods import METHODS
from sprig.methods.penalties.empty import same_function
from sprig.workflow.byhand import graph_of
from sprig.workflow.pieces import in_parts
from sprig.workflow.speed import CLAIM

REPEATED = 1e-4  # how far a layer error may differ when measured again
SHAPES, EXAMPLE = "shapes.json", "example.safetensors"
TRAINED = "trained.safetensors"  # the dense network of a run that trained it itself
MODULES = (
    "modules"  # in shapes.json: the submodules that were traced, where the whole model could not be
)


def load(folder: str | os.PathLike[str], model: nn.Module) -> nn.Module:
    """Rebuild the small network of a run folder from a fresh `model` of the original class."""
    opened = RunFolder.open(folder)
    state = opened.get_json(SHAPES)
    shapes = {name: tuple(shape) for name, shape in state["shapes"].items()}
    small = reshape(model, shapes, state.get("numbers"))
    return opened.load_model(small)


def verify(
    folder: str | os.PathLike[str],
    model: nn.Module,
    data: Any = None,
    eval_data: Any = None,
    *,
    progress: Progress | None = None,
) -> Certificate:
    """Recompute every claim of a run folder from its files, the dense `model` and the calibration `data`."""
    return Verification(
        RunFolder.open(folder), model, data, eval_data, progress or silent
    ).certificate()


def at_most(data: Any, samples: int | None) -> Triples:
    """The first batches with at least so many samples together; all of them for None."""
    triples = as_batches(data)
    if samples is None:
        return triples
    held, seen = [], 0
    for batch in triples.source:
        held.append(batch)
        seen += count(unpack(batch))
        if seen >= samples:
            break
    return Triples(held, f"{triples.description}, the first {seen}", views=triples.views)


class Verification:
    """One recheck of one run folder."""

    def __init__(
        self, folder: RunFolder, model: nn.Module, data: Any, eval_data: Any, progress: Progress
    ) -> None:
        if folder.has(TRAINED):
            model = folder.load_model(copy.deepcopy(model), name=TRAINED).eval()
        self.folder, self.model, self.progress = folder, model, progress
        self.data, self.eval_data = data, eval_data
        self.old = read_certificate(folder)
        self.plan = Plan.from_json(folder.get_text(PLAN))

    def certificate(self) -> Certificate:
        expected = self.old.hashes
        claims = [
            certify.same("weights", "the weights are those that were certified",
                         sha256_file(self.folder / MODEL), expected["weights_file"], MODEL),
            certify.same("plan", "the plan is the one that was certified", self.plan.hash, expected["plan"], PLAN),
            certify.same("dense", "the dense network is the one that was pruned",
                         sha256_model(self.model), expected["dense"], "weights of the dense network"),
        ]  # fmt: skip
        if all(c.passed for c in claims):
            claims += self._recomputed()
        return Certificate(tuple(claims), expected, certify.versions(), self.old.seed)

    def _recomputed(self) -> list[Claim]:
        state = self.folder.get_json(SHAPES)
        example = restore(self.folder.get_tensors(EXAMPLE), state.get("example"))
        graph = graph_of(self.model, example, self.plan, modules=state.get(MODULES))
        small = load(self.folder.path, self.model).eval()
        limits = state["limits"]
        claims = certify.masked_equals_shrunk(
            self.model, small, self.plan, graph, example, self.old.seed
        )
        if state.get("same"):
            claims.append(same_function(self.model, small, example, self.old.seed))
        claims += certify.recount(small, self.plan, graph, example, limits)
        old = {c.name: c for c in self.old.claims}
        wide = certify.widen(self.model, small, self.plan, graph)
        for label, given in (("calibration", self.data), ("held-out", self.eval_data)):
            name = f"layer-errors-{label}"
            if given is None or name not in old:
                continue
            triples = at_most(given, state.get("samples"))
            digest = triples.digest()
            claims.append(certify.same(f"data-{label}", f"the {label} data is the one that was used",
                                       digest, self.old.hashes[f"data_{label}"], label))  # fmt: skip
            twin = copy.deepcopy(self.model).eval()
            bench = Workbench(
                twin, graph, list(triples), self.old.seed, self.progress, views=triples.views
            )
            found = certify.layer_errors(
                bench, wide, self.plan, label=label, description=triples.description
            )
            gap = abs(found.value - old[name].value)
            claims.append(
                replace(
                    found,
                    passed=gap <= REPEATED * max(1.0, old[name].value),
                    tolerance=old[name].value,
                    how=f"{found.how}; within {REPEATED:g} of the figure certified",
                )
            )
            if label == "calibration" and "submodularity-ratio" in old:
                claims += self._ratios(bench, old)
            if label == "calibration" and "imitation-rate" in old:
                claims += self._rates(bench, old["imitation-rate"])
        if CLAIM in old:  # as it was found; nobody can hold another machine to it
            claims.append(old[CLAIM])
        if "lower-bound" in old:
            path = self.folder.get_tree("path.safetensors")
            rebuilt = Path(graph=graph, groups=path["groups"], harm=path["harm"])
            claims += optimality.floors(rebuilt, self.plan, old["lower-bound"].data)
        return claims

    def _ratios(self, bench: Workbench, old: Mapping[str, Claim]) -> list[Claim]:
        """The submodularity ratio and what follows from it, from the data anew."""
        method = METHODS[self.plan.method]
        if bench.graph.parts:
            method = in_parts(method)
        if method.ratios is None:
            raise StoreError(
                f"method {method.name!r} states no submodularity ratio, the certificate does"
            )
        settings: Any = read(method.config, dict(self.plan.config), what="plan.json config")
        found = method.ratios(bench, self.plan, settings)
        claims = optimality.submodularity(found, old["submodularity-ratio"].data)
        return _repeated(claims, [old[n] for n in ("submodularity-ratio", "optimum") if n in old])

    def _rates(self, bench: Workbench, old: Claim) -> list[Claim]:
        """The bounds on the published rule's error, from the data anew."""
        method = METHODS[self.plan.method]
        if method.rates is None:
            raise StoreError(f"method {method.name!r} promises no rate, the certificate does")
        settings: Any = read(method.config, dict(self.plan.config), what="plan.json config")
        return _repeated(
            optimality.rates(method.rates(bench, self.plan, settings), old.data), [old]
        )


def _repeated(found: Iterable[Claim], old: Iterable[Claim]) -> list[Claim]:
    """Certified claims beside the same from the data anew; one that these data no longer give fails."""
    again = {claim.name: claim for claim in found}
    out = []
    for claim in old:
        new = again.get(claim.name)
        if new is None:
            out.append(replace(claim, passed=False, how="cannot be worked out from these data"))
            continue
        passed = new.passed and abs(new.value - claim.value) <= REPEATED
        tolerance = claim.value if new.tolerance is None else new.tolerance
        how = f"{new.how}; within {REPEATED:g} of the figure certified"
        out.append(replace(new, passed=passed, tolerance=tolerance, how=how))
    return out
