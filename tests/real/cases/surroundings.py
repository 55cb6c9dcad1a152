"""The environment and the path, as this process, a program and a spawned process see them."""

import json
import multiprocessing
import os
import subprocess
import sys


def seen():
    return {"env": dict(os.environ), "path": sys.path}


def put(queue):
    queue.put(seen())


if __name__ == "__main__":
    import torch
    import torch.distributed  # noqa: F401 - it may change the environment

    show = "import json, os, sys; print(json.dumps({'env': dict(os.environ), 'path': sys.path}))"
    views = {"script": seen()}
    views["python"] = json.loads(subprocess.check_output([sys.executable, "-c", show]))
    program = subprocess.check_output(["env", "-0"]).decode().split("\0")
    views["program"] = {"env": dict(item.split("=", 1) for item in program if item), "path": []}
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    process = context.Process(target=put, args=(queue,))
    process.start()
    views["spawned"] = queue.get()
    process.join()
    try:
        import aside

        views["aside"] = aside.__file__
    except ModuleNotFoundError:
        views["aside"] = None
    print(json.dumps(views))
