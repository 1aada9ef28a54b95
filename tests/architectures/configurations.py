"""A tiny configuration for every architecture of the installed transformers that writes text.

Sizes are given by the names that configurations have for them; `CHANGES` holds what an architecture needs beside.
"""

import inspect
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from transformers import (
    CONFIG_MAPPING,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    AutoModelForSeq2SeqLM,
    PreTrainedConfig,
)
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES,
    MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES,
)

from tests.scoring.conftest import char_tokenizer

Changes = Mapping[str, Any]

MARKS = len(char_tokenizer())  # ids from here on stand for images and the like
EXPERTS = ("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts")
SMALL: dict[str, Any] = {
    "vocab_size": MARKS + 29,
    "vocab_size_per_layer_input": MARKS + 29,
    "initializer_range": 0.2,
    "init_std": 0.2,
    "is_decoder": True,
    **dict.fromkeys(("hidden_size", "d_model", "n_embd", "embed_dim", "embedding_size", "emb_dim", "dim"), 32),
    **dict.fromkeys(("input_embedding_size", "output_embedding_size", "word_embed_proj_dim", "lru_width"), 32),
    **dict.fromkeys(("attention_hidden_size", "encoder_hidden_dim", "projection_dim", "out_hidden_size"), 32),
    **dict.fromkeys(("intermediate_size", "ffn_dim", "d_ff", "n_inner", "ffn_hidden_size", "dim_ff", "dff"), 48),
    **dict.fromkeys(("encoder_ffn_dim", "decoder_ffn_dim", "d_inner"), 48),
    **dict.fromkeys(("num_hidden_layers", "num_layers", "n_layer", "n_layers", "depth"), 2),
    **dict.fromkeys(("encoder_layers", "decoder_layers", "num_encoder_layers", "num_decoder_layers"), 2),
    **dict.fromkeys(("num_key_value_heads", "num_kv_heads"), 2),
    **dict.fromkeys(("num_experts_per_tok", "num_experts_per_token", "moe_topk", "moe_k"), 2),
    **dict.fromkeys(("num_attention_heads", "num_heads", "n_head", "n_heads", "rotary_dim"), 4),
    **dict.fromkeys(("encoder_attention_heads", "decoder_attention_heads"), 4),
    **dict.fromkeys(EXPERTS, 4),
    **dict.fromkeys(("first_k_dense_replace", "n_group", "topk_group"), 1),
    **dict.fromkeys(("head_dim", "d_kv", "dim_head", "v_head_dim", "qk_rope_head_dim", "qk_nope_head_dim"), 8),
    **dict.fromkeys(("kv_lora_rank", "q_lora_rank", "linear_key_head_dim", "linear_value_head_dim", "patch_size"), 8),
    **dict.fromkeys(("hidden_size_per_layer_input", "laurel_rank"), 8),
    **dict.fromkeys(("image_size", "moe_intermediate_size", "shared_expert_intermediate_size"), 16),
    **dict.fromkeys(("max_position_embeddings", "n_positions", "n_ctx", "max_seq_len", "context_length"), 128),
    **dict.fromkeys(("max_source_positions", "max_target_positions"), 128),
    **dict.fromkeys(("max_encoder_position_embeddings", "max_decoder_position_embeddings"), 128),
}
LAYER_KINDS = ("layer_types", "layers_block_type")
TOKENS = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 2, "decoder_start_token_id": 2}
MARK_ENDS = ("_token_id", "_token_index", "_token_idx")

# Names of what experts leave as it is: other senses, and what brings them to the language model.
TOWER = re.compile("vision|visual|image|img_|audio|speech|video|vqmodel|generation_|tokenizer_encoder")
BRIDGE = re.compile(
    "projector|connector|multi_modal|merger|aligner|perceiver|qformer|query_tokens|feature_extensor"
    "|(visual|vision|language|image|img|audio)_proj|image_to_text|_proj_for_|mm_input|view_sep"
)
EARS = dict.fromkeys(("granite_speech", "granite_speech_plus"), re.compile(r"^(model[.])?encoder[.]"))


@dataclass(frozen=True)
class Architecture:
    """A row of the table: a model type, the auto class whose models write its checkpoints, and what is special."""

    model_type: str
    auto_class: Any
    changes: Changes = field(default_factory=dict)
    own_head: bool = False  # files that hold a head of its own, whatever the configuration says

    def config(self) -> PreTrainedConfig:
        """Its tiny configuration."""
        config_class = CONFIG_MAPPING[self.model_type]
        return shrunk(config_class, {**CHANGES.get(self.model_type, {}), **self.changes})

    def frozen(self, name: str) -> bool:
        """Whether experts leave this parameter as it is in the base."""
        ears = EARS.get(self.model_type)
        return bool(TOWER.search(name) or BRIDGE.search(name) or (ears and ears.search(name)))


def shrunk(config_class: type[PreTrainedConfig], changes: Changes) -> PreTrainedConfig:
    """A small configuration of the class, with a layer of every kind that it has and small sections."""
    default = config_class()
    said = default.to_dict()
    keys = {*said, *inspect.signature(config_class.__init__).parameters}
    keys |= {*getattr(config_class, "__dataclass_fields__", ())}
    values = {
        key: size for key, size in SMALL.items() if key in keys - {*config_class.attribute_map} and _fits(said, key)
    }
    if "kv_lora_rank" in values:  # multi-head latent attention has as many keys as queries
        values["num_key_value_heads"] = values["num_attention_heads"]
    marks = sorted(key for key in keys if key.endswith(MARK_ENDS) and isinstance(said.get(key), int))
    values |= {key: MARKS + place for place, key in enumerate(marks)} | TOKENS
    for key in LAYER_KINDS:
        kinds = list(dict.fromkeys(said.get(key) or ()))
        if len(kinds) > 1:
            values |= {key: kinds, "num_hidden_layers": len(kinds)}
    for key, rope in said.items():
        if isinstance(rope, dict) and "mrope_section" in rope:
            values |= {key: rope | {"mrope_section": [2, 1, 1], "partial_rotary_factor": 1.0}}
    sections = [name for name in config_class.sub_configs if isinstance(changes.get(name, {}), Mapping)]
    for name in sections:
        section = getattr(default, name, None)
        found = type(section) if isinstance(section, PreTrainedConfig) else config_class.sub_configs[name]
        if issubclass(found, PreTrainedConfig):
            values[name] = shrunk(found, changes.get(name, {})).to_dict()
    return config_class(**values | {key: value for key, value in changes.items() if key not in sections})


def _fits(said: Mapping[str, Any], key: str) -> bool:
    """Whether one number may stand there, and a number of experts only where there are several."""
    return not isinstance(said.get(key), list | tuple) and (key not in EXPERTS or (said.get(key) or 0) > 1)


MAMBA = {"mamba_n_heads": 8, "mamba_d_head": 8, "mamba_d_state": 8, "mamba_n_groups": 1, "mamba_expand": 2}
PIXELS = {
    "base_channels": 32,
    "channel_multiplier": [1, 1],
    "num_res_blocks": 1,
    "latent_channels": 4,
    "num_embeddings": 16,
}
MROPE = {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [2, 1, 1]}
SEEING = ("glm46v", "glm4v", "glm_ocr", "glmga", "paddleocr_vl", "qwen2_5_omni_thinker", "qwen2_5_vl", "qwen2_vl")
SOUNDS = {"num_filters": 4, "depths": [1, 1], "downsampling_ratios": [2]}
GRANITE_SPEECH = {
    "encoder_config": {
        "hidden_dim": 32,
        "dim_head": 8,
        "input_dim": 16,
        "output_dim": 8,
        "max_pos_emb": 16,
        "context_size": 8,
    },
    "projector_config": {"encoder_hidden_size": 32},
}
CHANGES: dict[str, Changes] = {
    **{name: {"text_config": {"rope_parameters": MROPE}} for name in SEEING},
    "bailing_hybrid": {"n_group": 1, "topk_group": 1},
    "bamba": {**MAMBA, "attn_layer_indices": [1]},
    "bigbird_pegasus": {"attention_type": "original_full"},
    "big_bird": {"attention_type": "original_full"},
    "chameleon": {"vocabulary_map": {"<image>": MARKS}, "vq_config": PIXELS, "num_key_value_heads": 4},
    "cohere_compass": {
        "text_config": {"rope_parameters": {"full_attention": {"rope_type": "default", "rope_theta": 1e4}}}
    },
    "cohere_compass_text": {"rope_parameters": {"full_attention": {"rope_type": "default", "rope_theta": 1e4}}},
    "cohere2_vision": {"alignment_intermediate_size": 32},
    "cosmos3_edge": {
        "projector_hidden_size": 32,
        "text_config": {"rope_parameters": MROPE},
    },
    "deepseek_ocr2": {"text_config": {"mlp_layer_types": ["dense", "sparse"]}},
    "dots1": {"n_routed_experts": 4, "n_shared_experts": 1},
    "dots3_note": {"text_config": {"num_key_value_heads": 4}},
    "dots3_note_text": {"num_key_value_heads": 4},
    "encoder-decoder": {"decoder": {"add_cross_attention": True}},
    "emu3": {"vocabulary_map": {"<image>": MARKS, "<|extra_200|>": MARKS + 1}, "vq_config": {**PIXELS, "embed_dim": 4}},
    "falcon_h1": {"mamba_d_ssm": 64, **MAMBA},
    "florence2": {
        "vision_config": {
            "depths": [1],
            "patch_size": [7],
            "patch_stride": [4],
            "patch_padding": [3],
            "patch_prenorm": [False],
            "embed_dim": [16],
            "num_heads": [2],
            "num_groups": [2],
        },
    },
    "fsmt": {"src_vocab_size": MARKS + 29, "tgt_vocab_size": MARKS + 29},
    "gemma3n_text": {
        "num_kv_shared_layers": 0,
        "intermediate_size": 48,
        "activation_sparsity_pattern": [0.0, 0.0],
    },
    "glm4v_moe": {"text_config": {"rope_parameters": {**MROPE, "partial_rotary_factor": 1.0}}},
    "glm5_next": {"text_config": {"num_key_value_heads": 4}},
    "gpt_neo": {"attention_types": [[["global", "local"], 1]]},
    "granite_speech": GRANITE_SPEECH,
    "granite_speech_plus": GRANITE_SPEECH,
    "granitemoehybrid": {**MAMBA, "layer_types": ["mamba", "attention"]},
    "hunyuan_v1_moe": {"num_experts": 4},
    "hunyuan_vl": {"text_config": {"rope_parameters": {**MROPE, "mrope_section": [1, 1, 1, 1]}}},
    "inkling2": {"vision_config": {"text_hidden_size": 32}},
    "lfm2_moe": {"layer_types": ["conv", "full_attention"]},
    "mistral4": {"head_dim": 16},
    "minicpm3": {"head_dim": 16, "num_key_value_heads": 4},
    "mamba2": {"num_heads": 8, "n_groups": 1, "state_size": 8},
    "molmo2": {"adapter_config": {"vision_feature_layer": [0, 1], "text_hidden_size": 32}},
    "muse_glimmer": {"projector_hidden_size": 32},
    "recurrent_gemma": {"num_hidden_layers": 3},
    "reformer": {
        "axial_pos_shape": [8, 16],
        "axial_pos_embds_dim": [16, 16],
        "attn_layers": ["local", "lsh"],
        "attention_head_size": 8,
        "feed_forward_size": 48,
    },
    "gemma4_unified": {"vision_config": {"mm_embed_dim": 32, "mm_posemb_size": 16, "output_proj_dims": 32}},
    "jamba": {"attn_layer_period": 2, "attn_layer_offset": 1, "mamba_dt_rank": 4},
    "janus": {"vq_config": PIXELS},
    "led": {"attention_window": [8, 8]},
    "longcat_flash": {"expert_ffn_hidden_size": 16, "ffn_hidden_size": 48},
    "llama4": {"vision_config": {"projector_input_dim": 32, "projector_output_dim": 32, "vision_output_dim": 32}},
    "roc_bert": {"shape_vocab_size": 64, "pronunciation_vocab_size": 64},
    "zamba": {
        "layers_block_type": ["linear_attention", "hybrid", "hybrid"],
        "num_hidden_layers": 3,
        "attention_head_dim": 16,
        "attention_hidden_size": 64,
        "mamba_dt_rank": 4,
    },
    "zamba2": {
        "layers_block_type": ["linear_attention", "hybrid", "hybrid"],
        "num_hidden_layers": 3,
        "num_key_value_heads": 4,
        "adapter_rank": 8,
        "attention_hidden_size": 64,
    },
    "step3p7": {"text_config": {"sliding_window": 8}},
    "vibevoice_asr": {"semantic_tokenizer_encoder_config": SOUNDS, "acoustic_tokenizer_encoder_config": SOUNDS},
    "xlstm": {"hidden_size": 128},
    "xmod": {"default_language": "en_XX"},
    "youtu": {"num_key_value_heads": 4, "pad_token_id": None},
    "zaya": {"num_experts_per_tok": 1},
}

IMAGE = "every forward pass needs an image"
UNSCORED = {
    **dict.fromkeys(
        ("blip", "blip-2", "idefics", "instructblip", "instructblipvideo", "kosmos-2", "vision-encoder-decoder"), IMAGE
    ),
    "udop": "every forward pass needs the boxes of its words",
    "voxtral_realtime": "every forward pass needs sound",
}
NO_FORWARD = {*UNSCORED}
UNSCORED |= {
    "fsmt": "transformers makes its decoder inputs from the context, whatever the answer",
    "xlnet": "its configuration says that it takes -1 tokens",
}
TIMM = "needs the package timm"
UNMADE = "no tiny configuration was made"
MOE = "a mixture of experts for which no tiny configuration was made"
NO_TEXT = "does not write text"
LEFT_OUT: dict[str, str] = {
    "evolla": "transformers' own auto class does not take it",
    **dict.fromkeys(("fast_vlm", "gemma3n", "perception_lm"), TIMM),
    **dict.fromkeys(("dbrx", "dots3_note", "dots3_note_text", "ernie4_5_vl_moe", "glm5_next"), MOE),
    **dict.fromkeys(("muse_spark", "nemotron_h_omni", "qwen4_exp", "qwen4_exp_text"), MOE),
    **dict.fromkeys(("blt", "granite4_vision", "nemo_speechlm"), UNMADE),
    **dict.fromkeys(("pix2struct", "pp_formulanet"), "reads images alone"),
    **dict.fromkeys(("gemma4_assistant", "gemma4_unified_assistant"), "drafts for another model"),
    **dict.fromkeys(("musicgen", "musicgen_melody", "pi0", "diffusion_gemma"), NO_TEXT),
}


def _all() -> dict[str, Architecture]:
    found: dict[str, Architecture] = {}
    for auto_class, names in (
        (AutoModelForImageTextToText, MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES),
        (AutoModelForSeq2SeqLM, MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES),
        (AutoModelForCausalLM, MODEL_FOR_CAUSAL_LM_MAPPING_NAMES),
    ):
        for name in names:
            if name not in LEFT_OUT:
                found.setdefault(name, Architecture(name, auto_class))
    return found


VARIANTS = {
    "granitemoehybrid, dense": Architecture("granitemoehybrid", AutoModelForCausalLM, {"num_local_experts": 0}),
    "gemma, a head of its own": Architecture("gemma", AutoModelForCausalLM, own_head=True),
    "llama, tied": Architecture("llama", AutoModelForCausalLM, {"tie_word_embeddings": True}),
    "llama, a head of its own": Architecture("llama", AutoModelForCausalLM, {"tie_word_embeddings": True}, True),
    "llama, quantised": Architecture(
        "llama", AutoModelForCausalLM, {"quantization_config": {"quant_method": "gptq", "bits": 4}}
    ),
    "mt5, a head of its own": Architecture("mt5", AutoModelForSeq2SeqLM, own_head=True),
    "t5, a head of its own": Architecture(
        "t5", AutoModelForSeq2SeqLM, {"tie_word_embeddings": False, "feed_forward_proj": "gated-gelu"}, own_head=True
    ),  # T5 v1.1 and Flan-T5
}
ARCHITECTURES: dict[str, Architecture] = dict(sorted({**_all(), **VARIANTS}.items()))
