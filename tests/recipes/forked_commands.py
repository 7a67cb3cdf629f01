"""Commands typed into a shell, run in forks of one process that has imported fairseq already.

``python -u forked_commands.py FOLDER`` puts ``python``, ``fairseq-preprocess``, ``fairseq-train``
and ``fairseq-generate`` into FOLDER, for the front of PATH. Each hands its arguments, folder,
environment and standard streams over to this process. The plugin is not imported here:
``--user-dir`` loads it.
"""

import importlib
import json
import logging
import os
import runpy
import signal
import socket
import sys
import traceback
from pathlib import Path

PROGRAMS = ("preprocess", "train", "generate")
COMMAND = """#!{python} -ISu
import json, os, socket, sys
if sys.argv[0].endswith("/python") and sys.argv[1:3] != ["-m", "recipes"]:
    os.execv("{python}", ["{python}", *sys.argv[1:]])
with socket.socket(socket.AF_UNIX) as server:
    server.connect("\\0{address}")
    request = json.dumps([sys.argv, os.getcwd(), dict(os.environ)]).encode()
    socket.send_fds(server, [len(request).to_bytes(8, "big")], [0, 1, 2])
    server.sendall(request)
    sys.exit(int(server.recv(8) or b"1"))
"""


def run(argv: list[str]) -> None:
    """What the program ``argv[0]`` does."""
    program = Path(argv[0]).name
    if program == "python":
        sys.path.insert(0, os.getcwd())
        sys.argv = argv[2:]
        runpy.run_module("recipes", run_name="__main__", alter_sys=True)
    else:
        sys.argv = argv
        logging.root.handlers.clear()  # each sets its own when it is imported first
        module = sys.modules[f"fairseq_cli.{program.removeprefix('fairseq-')}"]
        importlib.reload(module).cli_main()


def answer(client: socket.socket, folder: Path) -> None:
    """Run one command in this process, and send its exit code."""
    size, streams, *_ = socket.recv_fds(client, 8, 3)
    request = b""
    while len(request) < int.from_bytes(size, "big"):
        request += client.recv(1 << 16)
    argv, where, environment = json.loads(request)
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
    os.chdir(where)
    os.environ.clear()
    os.environ.update(environment)
    sys.executable = str(folder / "python")  # fairseq's commands are looked for beside it
    code = 1
    try:
        run(argv)
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        traceback.print_exc()
    sys.stdout.flush()
    sys.stderr.flush()
    client.sendall(str(code).encode())


def main(folder: Path) -> None:
    for name in PROGRAMS:
        importlib.import_module(f"fairseq_cli.{name}")
    # torch imports the first with the first optimiser that is made.
    for name in ("torch._dynamo", "recipes.__main__"):
        importlib.import_module(name)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for the children
    with socket.socket(socket.AF_UNIX) as server:
        address = f"forked commands {os.getpid()}"  # no file: a path may be too long for one
        server.bind(f"\0{address}")
        server.listen()
        for name in ("python", *(f"fairseq-{name}" for name in PROGRAMS)):
            (folder / name).write_text(COMMAND.format(python=sys.executable, address=address))
            (folder / name).chmod(0o755)
        print("ready", flush=True)
        while True:
            client, _ = server.accept()
            if os.fork() == 0:
                server.close()
                signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                answer(client, folder)
                os._exit(0)
            client.close()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
