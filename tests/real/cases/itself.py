"""What a script sees of itself."""

import inspect
import os
import sys
import threading
import traceback

import torch
import torch.distributed  # noqa: F401

size: int = 3


class Thing:
    """A class with a source."""

    def show(self):
        traceback.print_stack()
        return len(inspect.stack())


print("argv", sys.argv, sys.orig_argv)
print("python", sys.executable, sys.prefix, sys.exec_prefix, sys.flags, sys.warnoptions, sys._xoptions)
print("path", sys.path)
print("finders", sys.meta_path, sys.path_hooks)
print("names", sorted(globals()))
for name in ("__file__", "__name__", "__spec__", "__package__", "__doc__", "__annotations__", "__builtins__"):
    print(name, globals()[name])
print("loader", type(__loader__), getattr(__loader__, "path", None))
print("main", sys.modules["__main__"].__dict__ is globals(), type(sys.modules["__main__"]))
print("customized", [name for name in ("sitecustomize", "usercustomize") if name in sys.modules])
print("hook", [path for path in (*sys.path, *sys.path_importer_cache) if os.path.basename(path) == "hook"])
print("source", inspect.getsource(Thing))
print("depth", Thing().show(), sys._getframe().f_back)
with open("/proc/self/cmdline", "rb") as cmdline:  # not comm: `ps` shows there which rank it is
    print("process", cmdline.read())
thread = threading.Thread(target=traceback.print_stack)
thread.start()
thread.join()
print("threads", thread.name, [each.name for each in threading.enumerate()])
print("hash", hash("x") if "PYTHONHASHSEED" in os.environ else None)
