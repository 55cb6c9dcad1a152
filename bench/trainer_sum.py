"""One all-reduce after the imports of a Trainer script. The script that bench/heavy_imports.py launches."""

import os
import time

import torch
import torch.distributed as dist
from transformers import AutoModelForCausalLM, AutoTokenizer, Trainer, TrainingArguments, set_seed

USED = (AutoModelForCausalLM, AutoTokenizer, Trainer, TrainingArguments, set_seed)

dist.init_process_group("gloo")
dist.all_reduce(torch.ones(1))
os.write(1, f"reduced {time.time()}\n".encode())
dist.destroy_process_group()
