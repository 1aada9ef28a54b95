"""Coefficients of the methods that select one value per element (magmax, emr_elect)."""

from evomerge.kernels import Consensus, LinComb, Rule
from evomerge.methods import Genes


def scaled(rule: Rule, genes: Genes) -> Consensus | LinComb:
    """λ times the selected task vector; λ = 0 and a single expert are linear combinations and need no rule."""
    lam, count = float(genes.shared["lambda"]), len(genes.experts)
    if lam == 0 or count == 1:
        return LinComb(1.0 - lam, (lam,) * count)
    return Consensus(rule, (lam,))
