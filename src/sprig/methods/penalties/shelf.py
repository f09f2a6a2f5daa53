"""PENALTIES: what `sprig train --method` knows, one line each."""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Literal

from sprig.methods.penalties.adaptive_lasso import AdaptiveLasso
from sprig.methods.penalties.bn_slimming import BnSlimming
from sprig.methods.penalties.gates import Gates
from sprig.methods.penalties.grda import Grda, GroupGrda
from sprig.methods.penalties.greg import GReg1, GReg2
from sprig.methods.penalties.group_halo import GroupHalo
from sprig.methods.penalties.group_lasso import GroupLasso, SparseGroupLasso
from sprig.methods.penalties.halo import Halo
from sprig.methods.penalties.horseshoe import Horseshoe
from sprig.methods.penalties.increg import IncReg
from sprig.methods.penalties.l0 import L0
from sprig.methods.penalties.l1 import L1, Ridge
from sprig.methods.penalties.mcp import Mcp
from sprig.methods.penalties.scad import Scad
from sprig.methods.penalties.sws import Sws

Kind = Literal["weights", "units", "gates", "optimiser"]


@dataclass(frozen=True)
class Shrinkage:
    """One way to shrink while training."""

    name: str
    summary: str
    config: type[Any]
    reference: str
    kind: Kind = "weights"
    groups: bool = False  # acts on the graph's groups: ends in a plan and a smaller network
    relative: bool = True  # units of different groups are compared by size over their group's mean
    single: bool = False  # of the units that stay, single weights become zero as well

    @property
    def ends(self) -> str:
        """What the training ends in."""
        return "a smaller network" if self.groups else "masks: zeros, not smaller"


_WANG = "Wang et al. 2021, Neural Pruning via Growing Regularization"

PENALTIES: Mapping[str, Shrinkage] = MappingProxyType(
    {
        s.name: s
        for s in (
            Shrinkage("halo", "every weight learns how hard it is shrunk", Halo,
                      "Seto, Wells, Zhang 2021, HALO: Learning to Prune Neural Networks with Shrinkage"),
            Shrinkage("l1", "the lasso: one force on every weight", L1, "Tibshirani 1996"),
            Shrinkage("sws", "the lasso with one learned strength", Sws, "as compared with in Seto et al. 2021"),
            Shrinkage("mcp", "minimax concave: large weights are left alone", Mcp, "Zhang 2010"),
            Shrinkage("scad", "smoothly clipped: large weights are left alone", Scad, "Fan and Li 2001"),
            Shrinkage("ridge", "weight decay: the control", Ridge, "Hoerl and Kennard 1970"),
            Shrinkage("adaptive-lasso", "the lasso, harder on weights that start small", AdaptiveLasso, "Zou 2006"),
            Shrinkage("horseshoe", "a pole at zero and heavy tails", Horseshoe,
                      "Bhadra et al. 2019, horseshoe-like; Carvalho et al. 2010"),
            Shrinkage("group-lasso", "whole units, over the graph's groups", GroupLasso, "Yuan and Lin 2006",
                      "units", True),
            Shrinkage("sparse-group-lasso", "whole units, and weights in what stays", SparseGroupLasso,
                      "Simon et al. 2013", "units", True, single=True),
            Shrinkage("group-halo", "every unit learns how hard it is shrunk (ours)", GroupHalo,
                      "ours, after Seto et al. 2021", "units", True),
            Shrinkage("bn-slimming", "L1 on the scales of batch norms", BnSlimming,
                      "Liu et al. 2017, Learning Efficient Convolutional Networks through Network Slimming",
                      "units", True, relative=False),
            Shrinkage("increg", "an L2 factor per unit that grows or falls by rank", IncReg,
                      "Wang et al. 2018, Structured Pruning for Efficient ConvNets via Incremental Regularization",
                      "units", True),
            Shrinkage("greg1", "chosen units under a growing L2 factor", GReg1, _WANG, "units", True),
            Shrinkage("greg2", "all under growing L2, then the smallest", GReg2, _WANG, "units", True),
            Shrinkage("gates", "gates that shut in the forward pass, relative threshold", Gates,
                      "Lee 2019, Differentiable Sparsification for Deep Neural Networks", "gates", True),
            Shrinkage("l0", "hard-concrete gates, sampled", L0,
                      "Louizos, Welling, Kingma 2018, Learning Sparse Neural Networks through L0 Regularization",
                      "gates", True),
            Shrinkage("grda", "dual averaging in place of SGD: directional pruning", Grda,
                      "Chao et al. 2020, Directional Pruning of Deep Neural Networks", "optimiser"),
            Shrinkage("group-grda", "the same on units: a reconstruction of sDprun", GroupGrda,
                      "after Li et al. 2021, Structured Directional Pruning", "optimiser", True),
        )
    }
)  # fmt: skip
