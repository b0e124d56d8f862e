"""Runs `ppokit` commands, each in a fork of one process that has imported what a run imports.

    python command_server.py DESCRIPTOR

The descriptor is a socket. A request is a line of JSON (`arguments`, `cwd`) with the descriptors of standard
output and standard error; the answers are lines with the process and with its exit code. Importing torch and
transformers takes longer than a small run does.
"""

from __future__ import annotations

import json
import os
import socket
import sys


def import_all() -> None:
    """What a run imports, so that a fork need not."""
    import accelerate  # noqa: F401
    import matplotlib.figure
    import matplotlib.ticker  # noqa: F401
    import peft  # noqa: F401
    import pyarrow.parquet  # noqa: F401
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer  # noqa: F401

    import ppokit.cli
    import ppokit.trainer  # noqa: F401

    torch.set_num_threads(1)


def serve(connection: socket.socket) -> dict[str, object] | None:
    """Fork for each request; returns the request in the fork, and None at the end of the requests."""
    while True:
        data, descriptors, _, _ = socket.recv_fds(connection, 65536, 2)
        if not data:
            return None
        request: dict[str, object] = json.loads(data)
        pid = os.fork()
        if pid == 0:
            connection.close()
            for target, descriptor in enumerate(descriptors, 1):
                os.dup2(descriptor, target)
                os.close(descriptor)
            return request
        for descriptor in descriptors:
            os.close(descriptor)
        connection.sendall(json.dumps({"pid": pid}).encode() + b"\n")
        _, status = os.waitpid(pid, 0)
        connection.sendall(json.dumps({"code": os.waitstatus_to_exitcode(status)}).encode() + b"\n")


def main() -> None:
    import_all()
    request = serve(socket.socket(fileno=int(sys.argv[1])))
    if request is None:
        return
    # As `python -m ppokit` in that folder: its end, too, is that of a process.
    os.setpgid(0, 0)
    os.chdir(str(request["cwd"]))
    sys.path[0] = str(request["cwd"])
    sys.argv = ["ppokit", *request["arguments"]]  # type: ignore[misc]
    from ppokit.cli import main as ppokit

    ppokit()


if __name__ == "__main__":
    main()
