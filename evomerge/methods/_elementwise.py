"""What the methods that pick one value per element share: the scale of what they picked."""

from evomerge.kernels import Consensus, LinComb, Rule
from evomerge.methods import Genes


def scaled(rule: Rule, genes: Genes) -> Consensus | LinComb:
    """λ times what the rule picks; of one expert it picks everything, and λ = 0 is the base: neither needs a vote."""
    lam, count = float(genes.shared["lambda"]), len(genes.experts)
    if lam == 0 or count == 1:
        return LinComb(1.0 - lam, (lam,) * count)
    return Consensus(rule, (lam,))
