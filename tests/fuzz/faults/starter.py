"""A process that starts commands under faults of their place: limits, mounts, environment. It is run as a script.

Each line of its standard input is a command as JSON, see `commands.py`. Importing PyTorch lasts longer than most
commands on a tiny data set, so commands are forked from this process, which has imported it. A cold command is a new
Python.
"""

import ctypes
import json
import os
import resource
import subprocess
import sys

MODULES = ("effdet.api", "effdet.cli", "effdet.inference.jobs", "effdet.data.check", "effdet.evaluation.run_report")
CLONE_NEWNS = 0x00020000


def become(request, streams):
    """Makes this process the command, except for its code, with descriptors of its standard streams."""
    os.chdir(request["folder"])
    for number, descriptor in enumerate(streams):
        os.dup2(descriptor, number)
        os.close(descriptor)
    for name, value in request["limits"].items():
        limit = getattr(resource, f"RLIMIT_{name}")
        resource.setrlimit(limit, (value, resource.getrlimit(limit)[1]))
    sys.argv = ["effdet", *request["arguments"]]
    if request["cold"]:
        os.execve(sys.executable, [sys.executable, "-m", *sys.argv], request["environment"])
    os.environ.clear()
    os.environ.update(request["environment"])


def enter_namespace():
    """Gives this process mounts of its own, which end with it.

    Raises:
        OSError: that is not allowed.
    """
    library = ctypes.CDLL(None, use_errno=True)
    if library.unshare(CLONE_NEWNS):
        raise OSError(ctypes.get_errno(), "unshare")
    subprocess.run(["mount", "--make-rprivate", "/"], check=True)


def start_commands():
    """Forks a process for each line of standard input; returns in the process that is to be the command."""
    answers = os.dup(1)
    for line in sys.stdin:
        request = json.loads(line)
        keeper = os.fork()
        if keeper:
            os.waitpid(keeper, 0)
            continue
        # The files of the streams may be where the command cannot write.
        paths = ("/dev/null", request["stdout"], request["stderr"])
        streams = [os.open(path, os.O_RDWR | os.O_CREAT) for path in paths]
        os.setsid()  # the session shows which processes a command leaves behind
        if request["mounts"]:
            enter_namespace()
        for command in request["mounts"]:
            subprocess.run(command, shell=True, check=True, stdout=subprocess.DEVNULL)
        process = os.fork()
        if not process:
            os.close(answers)
            become(request, streams)
            return
        os.write(answers, f"{process} {os.getpid()}\n".encode())
        _, status = os.waitpid(process, 0)
        for command in request["unmounts"]:
            subprocess.run(command, shell=True, check=True, stdout=subprocess.DEVNULL)
        os.write(answers, f"{os.waitstatus_to_exitcode(status)}\n".encode())
        os._exit(0)
    sys.exit()


if __name__ == "__main__":
    if "--warm" in sys.argv:
        for name in MODULES:
            __import__(name)
    start_commands()
    from effdet.cli import main

    sys.exit(main())
