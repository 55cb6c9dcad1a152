"""What a process has from its parent and from the start of Python."""

import fcntl
import gc
import locale
import multiprocessing
import os
import resource
import signal
import stat
import sys
import threading

import torch
import torch.distributed

for number in sorted(signal.valid_signals()):
    print("signal", number, signal.getsignal(number))
with open("/proc/self/status") as status:
    fields = dict(line.rstrip("\n").split(":\t", 1) for line in status)
print("blocked", fields["SigBlk"], "ignored", fields["SigIgn"])
# the one by which `muster stacks` asks is caught in a rank, and nothing else
print("caught", hex(int(fields["SigCgt"], 16) & ~(1 << (signal.SIGRTMIN + 13 - 1))))
print("wakeup", signal.set_wakeup_fd(-1), "timer", signal.getitimer(signal.ITIMER_REAL), signal.pthread_sigmask(0, []))
print("umask", oct(os.umask(0)), "nice", os.nice(0), "policy", os.sched_getscheduler(0), os.sched_getaffinity(0))
# without RLIMIT_RTTIME, the last one, which marks the processes of a run (`linux/run_mark.py`) and limits nothing
print("limits", [resource.getrlimit(kind) for kind in range(15)])
print("leader", os.getsid(0) == os.getpid(), os.getpgid(0) == os.getpid(), "folder", os.getcwd(), os.getgroups())
for fd in range(10):
    try:
        kind, flags = stat.S_IFMT(os.fstat(fd).st_mode), fcntl.fcntl(fd, fcntl.F_GETFL)
        print("fd", fd, oct(kind), oct(flags), os.get_inheritable(fd))
    except OSError:
        print("fd", fd, "closed")
print("stdin", os.readlink("/proc/self/fd/0"))
for file in (sys.stdin, sys.stdout, sys.stderr):
    print("file", file.name, file.mode, file.encoding, file.errors, file.newlines, file.write_through)
print("locale", locale.getpreferredencoding(), locale.setlocale(locale.LC_ALL), sys.getfilesystemencoding())
print("collector", gc.isenabled(), gc.get_threshold(), gc.callbacks)
print("python", sys.getrecursionlimit(), sys.getswitchinterval(), sys.gettrace(), sys.getprofile(), sys.excepthook)
main = threading.main_thread()
print("threads", threading.enumerate() == [main], main.native_id == threading.get_native_id() == os.getpid())
print("process", multiprocessing.current_process(), multiprocessing.parent_process(), multiprocessing.active_children())
print("torch", torch.get_num_threads(), torch.get_num_interop_threads(), torch.is_grad_enabled())
