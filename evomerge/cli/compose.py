"""Hydra's composition of an experiment, and plain words for its errors; the only file that imports Hydra."""

import contextlib
import logging
import os
import re
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from evomerge.cli.messages import complain
from evomerge.cli.spelled_numbers import plain_override, refuse_changed_numbers, refuse_changed_override
from evomerge.errors import ConfigError, EvomergeError
from evomerge.experiment import prepare_run, read_config, read_file, read_preset, refuse_changed
from evomerge.paths import EXPERIMENT, project_path, run_name
from evomerge.suggest import did_you_mean

Job = Callable[[dict[str, Any], Path], None]
GROUPS = ("space", "optimizer", "pool", "tracker", "rules")  # sections whose presets `key=NAME` chooses for a file
NAMED_ENTRIES = ("experts", "space.genes", "baselines.methods", "baselines.recipes", "objective.keep")
HYDRA_OPTIONS = (
    *("-m", "--multirun", "-r", "--run", "-c", "--cfg", "-i", "--info", "--resolve", "-p", "--package"),
    *("-cd", "--config-dir", "-cn", "--config-name", "-cp", "--config-path", "-sc", "--shell-completion"),
    *("--hydra-help", "--experimental-rerun"),
)


def for_each_job(overrides: Sequence[str], job: Job) -> int:
    """Let Hydra compose the configuration, once for each job of a sweep, and run the job with plain objects.

    Returns the largest exit code. A job that fails prints its line, and the sweep goes on.
    """
    codes: list[int] = []
    _check_overrides(overrides)

    def task(config: DictConfig) -> None:
        folder = Path(HydraConfig.get().runtime.output_dir)
        try:
            refuse_changed_numbers(HydraConfig.get().runtime.choices, job_overrides())
            settings = _plain(config)
            if isinstance(settings.get("experiment"), dict):  # a file of the group, placed at its own key
                chosen = HydraConfig.get().runtime.choices["experiment"]
                raise ConfigError(f"conf/experiment/{chosen}.yaml: its first line must be `# @package _global_`")
            read_config(settings)  # a misspelt key is reported before torch is imported
            refuse_changed(settings, _shortest(folder))
            job(settings, _shortest(folder))
            codes.append(0)
        except EvomergeError as error:
            codes.append(complain(str(error), error.exit_code))
        except OmegaConfBaseException as error:  # Hydra would print a line of its own first
            codes.append(complain(_explain(error), ConfigError.exit_code))
        finally:
            _remove_empty(folder)

    _prepare_process(overrides)
    with _one_line("a file in conf/"):
        hydra.main(version_base="1.3", config_path=str(project_path("conf")), config_name="config")(task)()
    return max(codes, default=0)


def job_overrides() -> tuple[str, ...]:
    """The overrides that compose the configuration of the present job of a sweep."""
    return tuple(HydraConfig.get().overrides.task)


def experiment_of_file(path: Path, overrides: Sequence[str], out: Path | None) -> tuple[dict[str, Any], Path]:
    """The complete configuration of an experiment file with `key=value` overrides, and the run's folder.

    The folder is `out`; else that of the file, if a quick search has left it there; else the one of its `name`.
    ConfigError where Hydra would have to compose the file.
    """
    given, values = read_file(path), list(overrides)
    for text in overrides:
        if not re.match(r"[a-z_][\w.]*=", text):
            raise ConfigError(f"{text}: give key=value, or --out DIR")
        if preset := re.fullmatch(rf"({'|'.join(GROUPS)})=([\w.-]+)", text):
            given = {**given, preset[1]: read_preset(preset[1], preset[2])}
            values.remove(text)
    with _one_line("an override"):
        merged = _plain(
            OmegaConf.merge(OmegaConf.create(given), OmegaConf.from_dotlist(list(map(plain_override, values))))
        )
    left = path.parent if path.name == EXPERIMENT else None
    return prepare_run({"name": path.stem} | merged, out or left)


def _check_overrides(overrides: Sequence[str]) -> None:
    """ConfigError for an argument that is neither an override nor one of Hydra's options; Hydra would print a page."""
    for text in overrides:
        refuse_changed_override(text)
        option = text.partition("=")[0]
        if text.startswith("-") and option not in HYDRA_OPTIONS:
            raise ConfigError(f"{option}: unknown option; a key is written without dashes, as in +experiment=NAME")
    if not any(text.startswith("-") and text not in ("-m", "--multirun") for text in overrides):
        for text in overrides:
            if "=" not in text and not text.startswith(("-", "~")):
                name = text if re.fullmatch(r"[\w/-]+", text) else "NAME"
                raise ConfigError(f"{text}: give key=value; an experiment is chosen by its name: +experiment={name}")


def plain_settings(settings: Sequence[str]) -> dict[str, Any]:
    """`key=value` arguments as plain objects; ConfigError where a value is not YAML or refers to another key."""
    with _one_line("score: a value"):
        return _plain(OmegaConf.from_dotlist(list(map(plain_override, settings))))


@contextlib.contextmanager
def _one_line(what: str) -> Iterator[None]:
    """Every error of Hydra, OmegaConf and YAML as a ConfigError of one line."""
    try:
        yield
    except YAMLError as error:
        raise ConfigError(f"{what} is not YAML: {' '.join(str(error).split())}") from None
    except (HydraException, OmegaConfBaseException) as error:
        raise ConfigError(_explain(error)) from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"{what} is not UTF-8 ({error.reason} at byte {error.start}); save it as UTF-8") from None
    except ValueError as error:  # an error of Hydra that is not one of its exceptions
        if "Config group override" not in str(error):
            raise
        raise ConfigError("a group such as space, scorer or pool takes the name of a preset, as in pool=ray") from None


def _prepare_process(overrides: Sequence[str]) -> None:
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra would print a page and exit; main prints one line
    warnings.filterwarnings("ignore", message=".*searchpath.*", category=UserWarning)  # no ./conf here: fine
    OmegaConf.register_new_resolver("home", _home, replace=True)
    OmegaConf.register_new_resolver("run_name", run_name, replace=True)
    logging.basicConfig(level=logging.ERROR, format="%(name)s: %(message)s")
    logging.getLogger("evomerge").setLevel(logging.WARNING)  # other libraries' warnings are not for the user
    sys.argv = ["evomerge", *overrides]


def _home(path: str) -> str:
    """The resolver `${home:PATH}`: a path of the project."""
    return str(project_path(path))


def _remove_empty(folder: Path) -> None:
    """Hydra makes the run's folder first; a check, or a search that was refused, leaves none behind."""
    for place in (folder, folder.parent):
        with contextlib.suppress(OSError):
            place.rmdir()


def _shortest(folder: Path) -> Path:
    return folder.relative_to(Path.cwd()) if folder.is_relative_to(Path.cwd()) else folder


def _explain(error: Exception) -> str:
    """Hydra's message on one line, with the nearest name for a misspelt key or choice."""
    text = str(error)
    if found := re.match(r"ConfigError raised while resolving interpolation: (.+)", text):
        return found[1]  # one of ours, from a resolver
    if found := re.search(r"Could not find '(\w+)/(.+?)'", text):
        group, choice = found.groups()
        options = text.partition(f"Available options in '{group}':")[2].partition("Config search path")[0].split()
        return (
            f"{group}={choice}: no such choice{did_you_mean(choice, options)}; there are {', '.join(options) or 'none'}"
        )
    if found := re.search(r"Could not override '(.+?)'", text):
        known = _known_keys()
        if found[1] in known:
            return f"{found[1]}: names are added to it one by one: +{found[1]}.NAME=VALUE"
        if found[1].rpartition(".")[0] in NAMED_ENTRIES:
            return f"{found[1]}: not there yet; a plus adds it: +{found[1]}=VALUE"
        return f"{found[1]}: unknown key{did_you_mean(found[1], known)}"
    return "; ".join(line.strip() for line in text.splitlines() if line.strip())


def _known_keys() -> list[str]:
    """Every key of the default configuration, dotted, from config.yaml and the groups' presets."""
    conf = project_path("conf")
    top = _plain(OmegaConf.load(conf / "config.yaml"), resolve=False)
    found = list(top)
    for key, value in top.items():
        found += [f"{key}.{name}" for name in value] if isinstance(value, dict) else []
    for preset in conf.glob("*/*.yaml"):
        found += [f"{preset.parent.name}.{key}" for key in _plain(OmegaConf.load(preset), resolve=False)]
    return found


def _plain(config: Any, *, resolve: bool = True) -> dict[str, Any]:
    tree = OmegaConf.to_container(config, resolve=resolve, throw_on_missing=resolve)
    assert isinstance(tree, dict)
    return {str(key): value for key, value in tree.items()}
