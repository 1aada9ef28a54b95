"""The merged model of a run in memory, and what its pack has to know of it."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from evomerge.errors import ConfigError
from evomerge.export import open_recipe
from evomerge.merging import Materializer, choose_placement
from evomerge.models import Family, load_model, load_tokenizer, resolve_device
from evomerge.recipes import Recipe
from evomerge.scoring.engine import check_tokenizer
from evomerge.submission.conventions import KitTokenizer
from evomerge.submission.finished_run import FinishedRun
from evomerge.submission.older_transformers import adds_eos, read_tokenizer_config


@dataclass(frozen=True)
class MergedModel:
    """A recipe with its models and dtype, and the live model that it was written into."""

    recipe: Recipe
    family: Family
    dtype: str
    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase

    @property
    def is_encoder_decoder(self) -> bool:
        """Whether the model has an encoder."""
        return bool(self.model.config.is_encoder_decoder)

    @property
    def base_folder(self) -> Path:
        """The folder of the base."""
        return self.family.base.folder

    def kit_tokenizer(self, max_seq_len: int | None) -> KitTokenizer:
        """The starter kit's tokenisation; the tokenizer decodes as the kit's version of transformers does."""
        given = read_tokenizer_config(self.base_folder)
        return KitTokenizer(
            self.tokenizer, self.is_encoder_decoder, adds_eos(given, self.model.config.model_type), max_seq_len
        )


def write_merged_model(run: FinishedRun, device: str | None = None) -> MergedModel:
    """Merge the run's recipe into a model in memory, as the search did; `device` None is that of the run."""
    given, code = run.model, bool(run.model.get("trust_remote_code"))
    recipe, family = open_recipe(run.recipe, code)
    if code and "auto_map" in family.base.checkpoint.config:
        raise ConfigError(f"{family.ref}: comes with code of its own, which the starter kit does not run")
    dtype = recipe.out_dtype or str(given.get("dtype", "float32"))
    place = resolve_device(device or str(given.get("device", "auto")))
    options: dict[str, Any] = {"device": place, "attn_implementation": given.get("attn_implementation")}
    model = load_model(family.base.folder, dtype=dtype, untied=family.base.untied, trust_remote_code=code, **options)
    placed = choose_placement("auto", family, place, dtype, loaded=True)
    Materializer(family, place, placement=placed).write(recipe, model)
    tokenizer = load_tokenizer(family.base.folder, code)
    check_tokenizer(tokenizer, model.config.is_encoder_decoder)
    clean_up = bool(read_tokenizer_config(family.base.folder).get("clean_up_tokenization_spaces", False))
    tokenizer.clean_up_tokenization_spaces = clean_up
    tokenizer.clean_up_tokenization_spaces_for_bpe_even_though_it_will_corrupt_output = clean_up
    return MergedModel(recipe, family, dtype, model, tokenizer)
