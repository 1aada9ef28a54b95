"""What an experiment can choose in this room; readable without torch."""

PATHS = (
    "auto",
    "tree",
    "plain",
)  # of log-likelihoods: token trees, lm-eval's own forward pass, or trees where both agree
