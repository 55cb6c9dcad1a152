"""The script itself forks, spawns, and runs other programs."""

import multiprocessing
import os
import subprocess
import sys
import threading
from concurrent.futures import ProcessPoolExecutor

import torch


def answer(queue, number):
    main = threading.current_thread() is threading.main_thread()
    queue.put((number, multiprocessing.current_process().name, main, torch.ones(number).sum().item()))


def square(number):
    return number * number


def forks():
    pid = os.fork()
    if pid == 0:
        print("the child of os.fork", flush=True)
        sys.exit(3)
    print("it ended with", os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)


def runs():
    print("sh ended with", subprocess.run(["sh", "-c", "echo from sh; exit 4"]).returncode, flush=True)
    text = subprocess.run([sys.executable, "-c", "raise KeyError('x')"], stderr=subprocess.PIPE, text=True).stderr
    print(text, flush=True)


def starts(method):
    context = multiprocessing.get_context(method)
    queue = context.Queue()
    process = context.Process(target=answer, args=(queue, 5), name=method)
    process.start()
    print(queue.get(), flush=True)
    process.join()
    print(method, "ended with", process.exitcode, flush=True)


if __name__ == "__main__":
    forks()
    runs()
    for name in ("fork", "spawn"):
        starts(name)
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("fork")) as pool:
        print(list(pool.map(square, range(4))))
