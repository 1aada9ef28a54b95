"""A search that Python code starts: its configuration, completed with the defaults of conf/, and its folder."""

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from evomerge.errors import ConfigError
from evomerge.experiment.config import read_config
from evomerge.experiment.resume import refuse_changed
from evomerge.parsing import parse_yaml
from evomerge.paths import project_path, run_name
from evomerge.suggest import did_you_mean

HYDRA_KEYS = ("defaults", "hydra", "name")
HYDRA_RESOLVER = re.compile(
    r"\$\{(home|run_name|hydra|oc\.\w+):"
)  # resolvers that only Hydra and the command line have


def prepare_run(config: Mapping[str, Any] | str | Path, folder: str | Path | None) -> tuple[dict[str, Any], Path]:
    """The complete configuration and the run's folder, by default runs/ and the configuration's `name`.

    ConfigError for a key or value that is not valid, RunError where the folder holds a run of another configuration.
    """
    if not isinstance(config, Mapping | str | Path):
        raise ConfigError(f"config={config!r}: give a mapping of keys, or the path of a configuration file")
    given = config if isinstance(config, Mapping) else read_file(Path(config))
    complete = with_defaults(given)
    if folder is None and not given.get("name"):
        raise ConfigError("give the run's folder, or a name in the configuration")
    path = Path(folder) if folder is not None else Path("runs") / run_name(given["name"])
    complete.setdefault("name", path.name)
    read_config(complete)
    refuse_changed(complete, path)
    return complete, path


def with_defaults(given: Mapping[str, Any]) -> dict[str, Any]:
    """The configuration over the defaults of conf/config.yaml and its presets.

    A section that names its optimizer, pool or tracker gets the defaults of that one, and so does an entry `override
    /optimizer: slope` of Hydra's defaults list.
    """
    conf = project_path("conf")
    given, chosen = _chosen_presets(given)
    top = _read(conf / "config.yaml")
    presets = {key: name for entry in top["defaults"] if isinstance(entry, dict) for key, name in entry.items()}
    found = {key: value for key, value in top.items() if key not in HYDRA_KEYS}
    for group, preset in presets.items():
        if not group.startswith("override "):
            section = given.get(group)
            preset_name = chosen.get(group, preset)
            named = section.get("name", preset_name) if isinstance(section, Mapping) else preset_name
            path = _preset_file(group, str(named))
            found[group] = _read(path or conf / group / f"{preset}.yaml")
    return _merged(found, given)


def read_preset(group: str, name: str) -> dict[str, Any]:
    """The keys of conf/GROUP/NAME.yaml, of the project or of the user; ConfigError where there is none."""
    path = _preset_file(group, name) if re.fullmatch(r"[\w.+-]+", name) else None
    if path is None:
        names = sorted({file.stem for conf in _conf_folders() for file in (conf / group).glob("*.yaml")})
        raise ConfigError(f"{group}={name}: no such choice{did_you_mean(name, names)}; there are {', '.join(names)}")
    return {"name": name} | read_file(path)


def _preset_file(group: str, name: str) -> Path | None:
    """The file of a preset in conf/ of the project, else of the user; None where neither has one."""
    paths = (conf / group / f"{name}.yaml" for conf in _conf_folders())
    return next((path for path in paths if path.is_file()), None)


def _conf_folders() -> tuple[Path, Path]:
    return project_path("conf"), Path(os.environ.get("EVOMERGE_CONF", "conf"))


def _chosen_presets(given: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, str]]:
    """The configuration without a defaults list, and the presets that the list chooses: group → name."""
    chosen = {key: str(name) for entry in given.get("defaults", ()) for key, name in entry.items()}
    return {key: value for key, value in given.items() if key != "defaults"}, {
        key.removeprefix("override /"): name for key, name in chosen.items()
    }


def _needs_hydra(plain: Mapping[str, Any], text: str) -> bool:
    """Whether a file uses a resolver of the command line, or a defaults list that does more than choosing presets."""
    entries = plain.get("defaults", [])
    simple = isinstance(entries, list) and all(
        isinstance(entry, dict) and all(str(key).startswith("override /") for key in entry) for entry in entries
    )
    return not simple or HYDRA_RESOLVER.search(text) is not None


def read_file(path: Path) -> dict[str, Any]:
    """A configuration file such as a run's config.yaml; ConfigError for other files, and for those that need Hydra."""
    try:
        plain = _read(path)
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}; give a configuration file") from None
    except ValueError as error:  # also for text that is not UTF-8
        raise ConfigError(f"{path}: not YAML ({error})") from None
    if not isinstance(plain, dict):
        raise ConfigError(f"{path}: not a mapping of keys; give a configuration file")
    if _needs_hydra(plain, path.read_text(encoding="utf-8")):
        name = path.stem
        raise ConfigError(f"{path}: Hydra has to compose it; use the command line: evomerge +experiment={name}")
    return plain


def _read(path: Path) -> Any:
    return parse_yaml(path.read_text(encoding="utf-8"))


def _merged(default: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """`given` over `default`, section by section."""
    found = dict(default)
    for key, value in given.items():
        inner = found.get(key)
        found[key] = _merged(inner, value) if isinstance(inner, dict) and isinstance(value, Mapping) else value
    return found
