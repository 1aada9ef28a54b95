"""What an experiment can choose in this room; readable without torch."""

PATHS = (
    "auto",
    "tree",
    "plain",
)  # for log-likelihoods: `tree` is token trees, `plain` lm-eval's forward, `auto` trees where both agree
