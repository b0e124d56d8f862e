"""What torch.compile needs of a machine, beside torch itself."""

from __future__ import annotations

import os
import shutil
import sysconfig
from pathlib import Path


def missing(device: str) -> str:
    """What a device's kernels are compiled by and is not on this machine, in words; empty where all is there.

    On a CPU PyTorch builds the kernels by a C++ compiler. On a GPU Triton builds what launches them by a C
    compiler. Both include Python's headers.
    """
    variable, usual, language = ("CXX", ["g++"], "C++") if device == "cpu" else ("CC", ["gcc", "clang"], "C")
    names = os.environ.get(variable, "").split()[:1] or usual
    lacks = []
    if not any(shutil.which(name) for name in names):
        lacks.append(f"a {language} compiler ({' or '.join(names)}; {variable} names another)")
    # As Triton asks for them: Debian's own scheme is for packages of the machine's administrator.
    scheme = sysconfig.get_default_scheme().replace("posix_local", "posix_prefix")
    if not Path(sysconfig.get_path("include", scheme), "Python.h").is_file():
        lacks.append("Python's headers (Python.h, of python3-dev)")
    return " and ".join(lacks)
