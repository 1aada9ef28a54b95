"""The merge of a run: what is known of it before weights are read, and the live model that it is written into."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from evomerge.errors import ConfigError
from evomerge.export import open_recipe
from evomerge.merging import Materializer, choose_placement, output_layers
from evomerge.models import Family, load_model, load_tokenizer, model_config, resolve_device
from evomerge.recipes import Recipe
from evomerge.scoring.engine import check_tokenizer
from evomerge.submission.conventions import KitTokenizer
from evomerge.submission.finished_run import FinishedRun
from evomerge.submission.older_transformers import adds_eos, read_tokenizer_config

# Types whose attention the kit's version of transformers computes in one way only.
EAGER_IN_THE_KIT = ("t5", "mt5", "umt5", "longt5", "switch_transformers")


def refuse_quantised_base(family: Family) -> None:
    """ConfigError for a base that the starter kit would load quantised."""
    if str(family.ref) in family.dequantised:
        raise ConfigError(
            f"{family.ref}: quantised, and the starter kit loads the base by itself; give it as it was before, "
            "or run without a submission"
        )


@dataclass(frozen=True)
class RunMerge:
    """A run's recipe with its models, the dtype that it is written in, and the base's tokenizer.

    The tokenizer decodes as that of the starter kit does.
    """

    recipe: Recipe
    family: Family
    dtype: str
    tokenizer: PreTrainedTokenizerBase
    is_encoder_decoder: bool
    trust_remote_code: bool

    @classmethod
    def open(cls, run: FinishedRun) -> "RunMerge":
        """The merge of a run; ConfigError for one that the starter kit cannot load."""
        code = bool(run.model.get("trust_remote_code"))
        recipe, family = open_recipe(run.recipe, code)
        if recipe.routers is not None:
            raise ConfigError("calibrated routers cannot be packed; run without finalise.calibrate_routers")
        if output_layers(recipe) is not None:
            raise ConfigError("a recipe with slices changes the model's layers; `submit` packs recipes without slices")
        if recipe.vocabulary:
            raise ConfigError(
                "a recipe with another vocabulary than the base's changes the model's rows; `submit` packs recipes of "
                "the base's vocabulary"
            )
        refuse_quantised_base(family)
        if code and "auto_map" in family.base.checkpoint.config:
            raise ConfigError(f"{family.ref}: comes with code of its own, which the starter kit does not run")
        dtype = recipe.out_dtype or str(run.model.get("dtype", "float32"))
        folder = family.base.folder
        tokenizer, has_encoder = load_tokenizer(folder, code), bool(model_config(folder, code).is_encoder_decoder)
        check_tokenizer(tokenizer, has_encoder)
        clean_up = bool(read_tokenizer_config(folder).get("clean_up_tokenization_spaces", False))
        tokenizer.clean_up_tokenization_spaces = clean_up
        tokenizer.clean_up_tokenization_spaces_for_bpe_even_though_it_will_corrupt_output = clean_up
        return cls(recipe, family, dtype, tokenizer, has_encoder, code)

    @property
    def base_folder(self) -> Path:
        """The folder of the base."""
        return self.family.base.folder

    def kit_tokenizer(self, max_seq_len: int | None) -> KitTokenizer:
        """The starter kit's tokenisation of inputs and choices."""
        model_type = str(self.family.base.checkpoint.config.get("model_type"))
        eos = adds_eos(read_tokenizer_config(self.base_folder), model_type)
        return KitTokenizer(self.tokenizer, self.is_encoder_decoder, eos, max_seq_len)

    def load(self, run: FinishedRun, device: str | None = None) -> PreTrainedModel:
        """The merged model in memory, as the search wrote it; `device` None is that of the run."""
        place = resolve_device(device or str(run.model.get("device", "auto")))
        attention = run.model.get("attn_implementation")
        if attention is None and self.family.base.checkpoint.config.get("model_type") in EAGER_IN_THE_KIT:
            attention = "eager"  # in half precision another kind gives other logits
        options: dict[str, Any] = {"device": place, "attn_implementation": attention}
        options |= {"untied": self.family.base.untied, "trust_remote_code": self.trust_remote_code}
        model = load_model(self.base_folder, dtype=self.dtype, **options)
        placed = choose_placement("auto", self.family, place, self.dtype, loaded=True, limit=run.gpu_bytes)
        Materializer(self.family, place, placement=placed).write(self.recipe, model)
        return model
