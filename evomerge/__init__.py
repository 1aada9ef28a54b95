"""Search for the best merge of a base model and its fine-tuned experts, without training."""

__version__ = "0.1.0"
