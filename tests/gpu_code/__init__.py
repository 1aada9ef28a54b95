"""What can be proven of the passes on a GPU without a GPU: Triton's code for a pretended device, read and interpreted.

`signatures.py` collects the forms in which the methods call the runner. `pretended_gpu.py` has inductor generate its
code for them, `machine_code.py` compiles it to PTX and SASS, and `interpreter.py` runs it on the memory of the CPU.
Everything but `signatures.py` needs Triton, which `make ptx` installs into an environment of its own.
"""
