"""Hand a job over to the server that has its libraries loaded; see ``server.py``.

Python imports a module of this name when it starts. Where a job of the workflow starts (``python -m
steps.CHAPTER.STEP``), a process that a step starts, or the module ``REPRISE_WARM_TOO``, and ``REPRISE_WARM``
names a server, it runs there, with our arguments, environment and open files; this process waits and ends
with its exit code.
"""

import os
import sys


def _hand_over(address: str) -> None:
    import json
    import socket

    job = {"argv": sys.orig_argv[2:], "folder": os.getcwd(), "environment": dict(os.environ)}
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(address)
        text = json.dumps(job).encode("utf-8", "surrogateescape")
        socket.send_fds(connection, [len(text).to_bytes(8, "big")], [0, 1, 2])
        connection.sendall(text)
        code = connection.recv(1)
    os._exit(code[0] if code else 1)


if (
    "REPRISE_WARM" in os.environ
    and sys.orig_argv[1:2] == ["-m"]
    and (sys.orig_argv[2].startswith("steps.") or sys.orig_argv[2] == os.environ.get("REPRISE_WARM_TOO"))
):
    try:
        _hand_over(os.environ["REPRISE_WARM"])
    except BaseException:  # which Python would print, and start the job here
        import traceback

        traceback.print_exc()
        os._exit(70)
