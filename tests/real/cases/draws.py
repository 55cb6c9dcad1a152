"""Random numbers of every kind. In attempt 0, rank 0 fails once all others have drawn."""

import json
import multiprocessing
import os
import random
import secrets
import sys
import tempfile
import time
import uuid
from pathlib import Path

import numpy
import torch

assert "numpy.random" in sys.modules, "numpy.random would be seeded afresh"
draws = {
    "torch": torch.rand(4).tolist(),
    "torch seed": torch.initial_seed(),
    "numpy": numpy.random.rand(4).tolist(),
    "numpy generator": numpy.random.default_rng().random(4).tolist(),
    "random": random.random(),
    "authkey": multiprocessing.current_process().authkey.hex(),
    "uuid1": str(uuid.uuid1()),
    "uuid4": str(uuid.uuid4()),
    "secrets": secrets.token_hex(8),
    "temporary name": tempfile.mktemp(),
}
print(json.dumps(draws))
rank, attempt = os.environ["RANK"], os.environ["TORCHELASTIC_RESTART_COUNT"]
Path(f"drawn.{attempt}.{rank}").touch()
if attempt == "0":
    while rank == "0" and len(list(Path().glob("drawn.0.*"))) < int(os.environ["WORLD_SIZE"]):
        time.sleep(0.01)
    if rank == "0":
        sys.exit(1)
    time.sleep(600)  # work that does not end
