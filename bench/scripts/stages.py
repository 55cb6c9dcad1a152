"""What one rank does from its start to its exit, with the time of each stage: printed as JSON."""

import json
import os
import time

began = time.perf_counter()
import torch  # noqa: E402
import torch.distributed as dist  # noqa: E402

imported = time.perf_counter()
os.environ.update(RANK="0", WORLD_SIZE="1", MASTER_ADDR="127.0.0.1", MASTER_PORT="0")
dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
joined = time.perf_counter()
dist.all_reduce(torch.ones(1))
reduced = time.perf_counter()
dist.destroy_process_group()
stages = {"import": imported - began, "group": joined - imported, "reduce": reduced - joined}
print(json.dumps({**stages, "end": time.time()}), flush=True)
