"""`python -m tests.architectures` makes docs/architectures.md."""

from tests.architectures.page import main

main()
