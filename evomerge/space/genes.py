"""The genes of one method in a search: which are searched, which are fixed, and their values where not searched."""

from collections.abc import Mapping, Sequence
from typing import Any

from evomerge import methods
from evomerge.errors import ConfigError
from evomerge.methods import Gene
from evomerge.models import ROUTER, Group
from evomerge.recipes import Setting
from evomerge.schema import as_yaml, check_value
from evomerge.space.axes import Coefficient, narrow
from evomerge.suggest import did_you_mean


class Genes:
    """The genes of a method, after the experiment's overrides.

    `by_name` holds the method's genes, `free` the searched ones with their narrowed range and their schedule, `fixed`
    the values of the others. `normalizes` says that the method divides weights by their sum. `additive_weights` says
    that each weight scales its own task vector, so an expert equal to the base changes nothing, whatever its weight.
    `settings` are the method's settings that are no genes.
    """

    def __init__(
        self, method: str, settings: Mapping[str, float | bool], overrides: Mapping[str, Any], schedule: Any
    ) -> None:
        self._method, self._module = method, methods.load(method)
        self.settings = check_settings(method, settings)
        self.normalizes = methods.normalizes(self._module, self.settings)
        self.additive_weights = (
            "normalize" in self._module.SHARED and not self.normalizes and "weight" not in self._module.BASE
        )
        self.by_name = {gene.name: gene for gene in self._module.GENES}
        if self.additive_weights:
            self.by_name.pop("lambda", None)  # it scales all weights, so it would be a redundant dimension
        for name in overrides:
            if name not in self.by_name:
                raise ConfigError(
                    f"space.genes: {as_yaml(name)} is not a gene of {method}{did_you_mean(name, self.by_name)}"
                )
        self.fixed: dict[str, float] = {}
        self.free: list[tuple[Gene, Any]] = []
        for gene in self.by_name.values():
            self._narrow(gene, self._override(gene.name, overrides), schedule)

    @property
    def searches_weights(self) -> bool:
        """Whether the method has weights and they are searched."""
        return "weight" in self.by_name and "weight" not in self.fixed

    def refuse_frozen_group(self, group: Group) -> None:
        """ConfigError if no gene has a value at which the merge is the base."""
        # If the base has a weight or the weights are normalised, expert weights of 0 do not give the base.
        weighted = "weight" in self._module.BASE or self.normalizes
        able = [gene for gene in self.by_name.values() if gene.base is not None]
        if not any(gene.name != "weight" or not weighted for gene in able):
            reason = (
                "normalises its weights and leaves the base none" if weighted else "has no value that leaves the base"
            )
            is_router = group.name == ROUTER
            setting = "space.router=keep" if is_router else "space.outer=base"
            instead = "merge" if is_router else "joint or each"
            raise ConfigError(f"{setting}: {self._method} {reason}; use {instead}")

    def fixed_value(self, name: str, group: Group, experts: int) -> float:
        """A gene's value in a group in which it is not searched; `experts` is the number of experts."""
        gene = self.by_name[name]
        if group.frozen and gene.base is not None:
            return gene.base
        if name in self.fixed:
            return self.fixed[name]
        if name == "weight" and not self.additive_weights:  # there is one expert, or all equal the base in this group
            return 1.0 if self.normalizes else round(1.0 / experts, gene.decimals)
        return gene.default if gene.base is None else gene.base

    def _override(self, name: str, overrides: Mapping[str, Any]) -> Any:
        """The experiment's setting of a gene, from `method.settings` or `space.genes`; an empty mapping without one."""
        override = overrides.get(name, {})
        if name not in self.settings:
            return override
        if override:
            raise ConfigError(f"{name}: set it in method.settings or in space.genes, not in both")
        return self.settings.pop(name)

    def _narrow(self, gene: Gene, override: Any, schedule: Any) -> None:
        if gene.name == "weight" and self.normalizes and isinstance(override, Mapping):
            for key in ("low", "high", "default", "values"):
                if key in override:
                    raise ConfigError(
                        f"space.genes.weight.{key}: {self._method} normalises its weights, so they have no range; "
                        "set method.settings.normalize=false to give them one"
                    )
        narrowed, fixed, gene_schedule = narrow(gene, override, schedule)
        if fixed is None:
            self.free.append((narrowed, gene_schedule))
        else:
            self.fixed[gene.name] = fixed


def refuse_unknown_genes(genes: Mapping[str, Any], names: Sequence[str], where: str = "space.genes") -> None:
    """ConfigError for a gene that none of these methods has."""
    known = {gene.name for name in names for gene in methods.load(name).GENES}
    for gene in genes:
        if gene not in known:
            raise ConfigError(
                f"{where}: {as_yaml(gene)} is not a gene of {' or '.join(names)}{did_you_mean(gene, known)}"
            )


def check_settings(method: str, settings: Mapping[str, float | bool]) -> dict[str, Setting]:
    """The settings of a method that are not searched, as plain values; ConfigError for one that it does not have."""
    known = methods.load(method).SHARED
    for key in settings:
        if key not in known:
            hint = f"{did_you_mean(key, known)}; it has {list(known)}"
            raise ConfigError(f"method.settings: {method} has no setting '{as_yaml(key)}'{hint}")
        check_value(settings[key], bool if isinstance(known[key], bool) else Coefficient, f"method.settings.{key}")
    return {key: value if isinstance(value, bool) else float(value) for key, value in settings.items()}
