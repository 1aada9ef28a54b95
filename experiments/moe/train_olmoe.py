"""Train a tiny OLMoE with three experts from nothing, on the skills of the quickstart.

usage: python -m experiments.moe.train_olmoe OUT [--strong] [--seed N]

Writes OUT/family/<model> (bf16 checkpoints with one matrix for each expert of a layer) and OUT/data/<skill>.jsonl. With
--strong, the models are trained longer, at a higher rate and on their own skill alone, so they move apart.
"""

import argparse
import logging
import sys
from pathlib import Path

import torch
from transformers import OlmoeConfig, OlmoeForCausalLM
from transformers.utils.logging import disable_progress_bar

from experiments.quickstart import train_family
from experiments.quickstart.skills import SKILLS, split
from experiments.quickstart.train_family import EXPERTS, expert_course

log = logging.getLogger("train_family")


def build_model() -> OlmoeForCausalLM:
    """1.0M parameters: four layers of eight experts, of which a token uses two."""
    config = OlmoeConfig(
        vocab_size=len(train_family.VOCABULARY),
        hidden_size=96,
        intermediate_size=96,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        num_experts=8,
        num_experts_per_tok=2,
        norm_topk_prob=True,
        output_router_logits=True,  # the loss that balances the experts is part of the training
        router_aux_loss_coef=0.02,
        max_position_embeddings=64,
        pad_token_id=train_family.PAD,
        bos_token_id=train_family.BOS,
        eos_token_id=train_family.EOS,
    )
    return OlmoeForCausalLM(config)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("out", type=Path, help="of family/ and data/")
    parser.add_argument("--strong", action="store_true", help="train the experts longer, and on their own skill alone")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
    disable_progress_bar()
    torch.set_num_threads(1)
    parts = {name: split(skill, train_family.ITEMS, options.seed) for name, skill in SKILLS.items()}
    held_out, pools = ({name: part[place] for name, part in parts.items()} for place in (0, 1))
    train_family.write_tasks(held_out, options.seed, options.out / "data")
    if options.strong:
        for name in EXPERTS:
            EXPERTS[name] = expert_course(name, share=1.0, steps=300, rate=3e-3)
    base = train_family.train_base(pools, options.seed, options.out / "family", build_model)
    train_family.train_experts(base, pools, options.seed, options.out / "family")


if __name__ == "__main__":
    main()
