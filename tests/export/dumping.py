"""The script that exported and adopted forms run: each rank writes down what it sees, and reaches the others."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

DUMP = """
import json, os, socket, sys
folder = os.environ["DUMP_TO"]
names = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE")
seen = {name: os.environ[name] for name in names}
seen.update(host=socket.gethostname(), argv=sys.argv[1:], cwd=os.getcwd())
seen["chosen"] = {name: value for name, value in os.environ.items() if name.startswith("CHOSEN_")}
seen["threads"] = os.environ["OMP_NUM_THREADS"]
socket.getaddrinfo(os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]))
if "--sum" in sys.argv:
    import torch, torch.distributed as dist
    dist.init_process_group("gloo")
    one = torch.ones(1)
    dist.all_reduce(one)
    seen["sum"] = one.item()
    dist.destroy_process_group()
with open(f"{folder}/{seen['RANK']}.json", "x") as file:
    json.dump(seen, file)
"""


def dumped(folder: Path) -> list[dict[str, Any]]:
    """Return what the ranks saw, by rank."""
    found = [json.loads(path.read_text()) for path in folder.glob("*.json")]
    return sorted(found, key=lambda seen: int(seen["RANK"]))
