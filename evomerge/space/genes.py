"""The genes of one method as a search has them: which vary, which are fixed, what each is where nothing varies it."""

from collections.abc import Mapping, Sequence
from typing import Any

from evomerge import methods
from evomerge.errors import ConfigError
from evomerge.methods import Gene
from evomerge.models import Group
from evomerge.recipes import Setting
from evomerge.schema import check_value, shown
from evomerge.space.axes import Coefficient, narrow
from evomerge.suggest import nearest


class Genes:
    """`named` are the method's genes, `free` those that vary, narrowed and with their schedule, `fixed` the others.

    `normalizes`: weights are shares. `adds`: weights scale task vectors one by one, so that an expert which is the base
    adds nothing, whatever its weight. `settings` are the method's own that are no genes.
    """

    def __init__(
        self, method: str, settings: Mapping[str, float | bool], overrides: Mapping[str, Any], schedule: Any
    ) -> None:
        self._method, self._module = method, methods.load(method)
        self.settings = check_settings(method, settings)
        self.normalizes = methods.normalizes(self._module, self.settings)
        self.adds = "normalize" in self._module.SHARED and not self.normalizes and "weight" not in self._module.BASE
        self.named = {gene.name: gene for gene in self._module.GENES}
        if self.adds:
            self.named.pop("lambda", None)  # the common scale of the weights: a redundant direction
        for name in overrides:
            if name not in self.named:
                raise ConfigError(f"space.genes: {shown(name)} is not a gene of {method}{nearest(name, self.named)}")
        self.fixed: dict[str, float] = {}
        self.free: list[tuple[Gene, Any]] = []
        for gene in self.named.values():
            self._narrow(gene, self._override(gene.name, overrides), schedule)

    @property
    def weighs(self) -> bool:
        """Whether there are weights, and they vary."""
        return "weight" in self.named and "weight" not in self.fixed

    def refuse_frozen(self) -> None:
        """ConfigError where no gene leaves the base as it is."""
        own = "weight" in self._module.BASE or self.normalizes  # a base that is not listed has no weight
        if not any(gene.base is not None and not (gene.name == "weight" and own) for gene in self.named.values()):
            reason = "normalises its weights and leaves the base none" if own else "has no value that leaves the base"
            raise ConfigError(f"space.outer=base: {self._method} {reason}; use joint or each")

    def idle(self, name: str, group: Group, experts: int) -> float:
        """A gene's value in a group where it has no coordinates."""
        gene = self.named[name]
        if group.frozen and gene.base is not None:
            return gene.base
        if name in self.fixed:
            return self.fixed[name]
        if name == "weight" and not self.adds:  # the only expert, or a group that is the base's in every expert
            return 1.0 if self.normalizes else round(1.0 / experts, gene.decimals)
        return gene.default if gene.base is None else gene.base

    def _override(self, name: str, overrides: Mapping[str, Any]) -> Any:
        """What the experiment says of a gene, among the method's settings or in the space."""
        override = overrides.get(name, {})
        if name not in self.settings:
            return override
        if override:
            raise ConfigError(f"{name}: set it in method.settings or in space.genes, not in both")
        return self.settings.pop(name)

    def _narrow(self, gene: Gene, override: Any, schedule: Any) -> None:
        if gene.name == "weight" and self.normalizes and isinstance(override, Mapping):
            for key in ("low", "high", "default"):
                if key in override:
                    raise ConfigError(
                        f"space.genes.weight.{key}: {self._method} normalises its weights, so they have no range; "
                        "set method.settings.normalize=false to give them one"
                    )
        narrowed, fixed, own = narrow(gene, override, schedule)
        if fixed is None:
            self.free.append((narrowed, own))
        else:
            self.fixed[gene.name] = fixed


def refuse_unknown_genes(genes: Mapping[str, Any], names: Sequence[str], where: str = "space.genes") -> None:
    """ConfigError for a gene that none of these methods has."""
    known = {gene.name for name in names for gene in methods.load(name).GENES}
    for gene in genes:
        if gene not in known:
            raise ConfigError(f"{where}: {shown(gene)} is not a gene of {' or '.join(names)}{nearest(gene, known)}")


def check_settings(method: str, settings: Mapping[str, float | bool]) -> dict[str, Setting]:
    """The settings of a method that are not searched, as plain values; ConfigError for one that it does not have."""
    known = methods.load(method).SHARED
    for key in settings:
        if key not in known:
            hint = f"{nearest(key, known)}; it has {list(known)}"
            raise ConfigError(f"method.settings: {method} has no setting '{shown(key)}'{hint}")
        check_value(settings[key], bool if isinstance(known[key], bool) else Coefficient, f"method.settings.{key}")
    return {key: value if isinstance(value, bool) else float(value) for key, value in settings.items()}
