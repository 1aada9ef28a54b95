"""What an experiment can choose in this room; readable without torch."""

PLACEMENTS = ("device", "pinned", "mmap")  # of the experts: GPU memory, pinned host memory, memory-mapped files
COMPILE = {"auto": None, "always": True, "never": False}  # of the merge passes; None decides by the model's size
