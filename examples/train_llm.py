"""Train a language model with DistributedDataParallel (DDP), under any launcher or as a single process.

python examples/train_llm.py                                 # a small GPT-2 on fables.txt; no download
muster run -g 4 examples/train_llm.py --experiment-name fables
torchrun --nproc-per-node 8 examples/train_llm.py --model-name openai-community/gpt2 --dataset-name tatsu-lab/alpaca

After a crash or `kill -9`, the same command resumes from the last checkpoint and gives the losses of an uninterrupted
run, bit for bit on CPUs. On SIGUSR1 to any rank, all ranks save after the current step and exit with 75.
"""

import argparse
import json
import os
import signal
import sys
import time
from pathlib import Path
from resource import RUSAGE_SELF, getrusage

import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DistributedSampler
from tqdm import tqdm
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, get_cosine_schedule_with_warmup

FREE = ("experiment_name", "save_dir", "num_epochs", "log_freq", "ckpt_freq", "local_rank")  # may differ when resuming


def options():
    """The command-line arguments."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--experiment-name", default="llm", help="name of the output directory; the same name resumes")
    add("--save-dir", type=Path, default="outputs", help="parent of that directory; all hosts must share it")
    add("--model-name", default="tiny", help="`tiny`, a causal LM from Hugging Face, or a directory")
    add("--random-weights", action="store_true", help="use its config and tokenizer, but not its weights")
    for name, value in (("--layers", 4), ("--width", 128), ("--heads", 4)):
        add(name, type=int, default=value, help="size of `tiny`, a byte-level GPT-2")
    add("--dataset-name", default="fables", help="`fables`, a Hugging Face data set with column `text`, or a file")
    add("--batch-size", type=int, default=8, help="per rank and backward pass")
    add("--grad-accum", type=int, default=1, help="backward passes per step")
    add("--seq-length", type=int, default=128, help="tokens per sequence")
    add("--lr", type=float, help="default: 3e-5, or 1e-3 from random weights")
    add("--num-epochs", type=int, default=10)
    add("--log-freq", type=int, default=10, help="steps between log lines")
    add("--ckpt-freq", type=int, default=500, help="steps between checkpoints")
    add("--seed", type=int, default=0)
    add("--local-rank", "--local_rank", type=int, default=0, help="set by some launchers")
    args = parser.parse_args()
    args.random_weights |= args.model_name == "tiny"
    args.lr = args.lr or (1e-3 if args.random_weights else 3e-5)
    return args


def main():
    """Prepare on rank 0, join the process group, train, leave it."""
    signals = []
    signal.signal(signal.SIGUSR1, lambda *_: signals.append("SIGUSR1"))
    sys.stdout.reconfigure(line_buffering=True)  # show lines at once, in a pipe too
    args = options()
    folder = args.save_dir / args.experiment_name
    if int(os.environ.get("RANK", 0)) == 0:
        prepare(args, folder)  # the others wait when they join: one download, one error message
    done = Training(args, folder, join(args)).run(signals)
    dist.barrier()  # a launcher may kill all ranks when the first one exits, and rank 0 writes longest
    dist.destroy_process_group()
    sys.exit(0 if done else 75)  # EX_TEMPFAIL of sysexits.h: not finished, start it again


def prepare(args, folder):
    """Write start.pt, the initial state: configuration, weights, tokens. If it exists, compare the arguments."""
    asked = {name: value for name, value in vars(args).items() if name not in FREE}
    asked["ranks"] = int(os.environ.get("WORLD_SIZE", 1))
    if (folder / "start.pt").exists():
        before = torch.load(folder / "start.pt", mmap=True)["asked"]
        if other := [f"{name} {before[name]}, not {now}" for name, now in asked.items() if before[name] != now]:
            raise SystemExit(f"{folder} was started with {'; '.join(other)}\nhint: use another --experiment-name")
        return
    try:
        model, tokens = fetch(args)
    except (OSError, ValueError, KeyError) as error:  # no network, no such name, no text in it
        why = f"{str(error).splitlines()[0]}\nhint: check the names and the network connection"
        raise SystemExit(f"cannot load {args.model_name} and {args.dataset_name}: {why}") from error
    rows = len(tokens) // args.seq_length
    if rows < asked["ranks"] * args.batch_size * args.grad_accum:
        raise SystemExit(f"{args.dataset_name} is too short for one step\nhint: use a smaller --batch-size")
    blocks, config = tokens[: rows * args.seq_length].view(rows, -1), model.config.to_json_string(use_diff=False)
    folder.mkdir(parents=True, exist_ok=True)
    write(folder / "start.pt", {"asked": asked, "config": config, "weights": model.state_dict(), "blocks": blocks})


def fetch(args):
    """The model, and the concatenated tokens of all texts."""
    file = Path(__file__).with_name("fables.txt") if args.dataset_name == "fables" else Path(args.dataset_name)
    if file.is_file():
        texts = [file.read_text()]
    else:
        from datasets import load_dataset

        texts = load_dataset(args.dataset_name, split="train")["text"]
    if args.model_name == "tiny":
        size = {"n_layer": args.layers, "n_embd": args.width, "n_head": args.heads, "n_positions": args.seq_length}
        config = AutoConfig.for_model("gpt2", vocab_size=256, bos_token_id=0, eos_token_id=0, **size)
        encode, end = str.encode, 0
    else:
        config, tokenizer = AutoConfig.from_pretrained(args.model_name), AutoTokenizer.from_pretrained(args.model_name)
        encode, end = tokenizer.encode, tokenizer.eos_token_id
    if args.seq_length > getattr(config, "max_position_embeddings", args.seq_length):
        raise SystemExit(f"{args.model_name} has {config.max_position_embeddings} positions\nhint: lower --seq-length")
    tokens = torch.cat([torch.tensor([*encode(text), end], dtype=torch.int32) for text in texts])
    torch.manual_seed(args.seed)
    load = AutoModelForCausalLM.from_config if args.random_weights else AutoModelForCausalLM.from_pretrained
    return load(config if args.random_weights else args.model_name, dtype=torch.float32), tokens


def join(args):
    """Initialize the process group; return the device of this rank."""
    cuda = torch.cuda.is_available()
    if cuda:
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", args.local_rank)))
    alone = {} if "RANK" in os.environ else {"store": dist.HashStore(), "rank": 0, "world_size": 1}  # needs no port
    dist.init_process_group("cpu:gloo,cuda:nccl" if cuda else "gloo", **alone)  # gloo too, for CPU tensors
    return torch.device("cuda", torch.cuda.current_device()) if cuda else torch.device("cpu")


class Training:
    """The state of the training."""

    def __init__(self, args, folder, device):
        self.args, self.folder, self.device, self.cuda = args, folder, device, device.type == "cuda"
        self.rank, self.ranks = dist.get_rank(), dist.get_world_size()
        start = torch.load(folder / "start.pt", mmap=True)
        self.blocks, config = start["blocks"], AutoConfig.for_model(**json.loads(start["config"]))
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
        model.load_state_dict(start["weights"])
        self.model = DistributedDataParallel(model.to(device).train(), device_ids=[device] if self.cuda else None)
        self.optimizer = torch.optim.AdamW(model.parameters(), lr=args.lr)
        self.sampler = DistributedSampler(self.blocks, seed=args.seed, drop_last=True)
        self.each_epoch = len(self.sampler) // (args.grad_accum * args.batch_size)
        self.step, self.last = 0, args.num_epochs * self.each_epoch
        self.schedule = get_cosine_schedule_with_warmup(self.optimizer, self.last // 20, self.last)
        self.kept = {"model": model, "optimizer": self.optimizer, "schedule": self.schedule}
        # DDP rebuilds its gradient buckets after the first backward pass. The position of a value in a bucket decides
        # in which order more than 2 ranks add it up, so the first step after resuming would differ in the last digits
        # from the same step of an uninterrupted run. A discarded backward pass makes the buckets equal in both.
        self.backward(torch.arange(args.batch_size))
        self.optimizer.zero_grad()
        torch.manual_seed(args.seed + self.rank)  # each rank drops other units

    def run(self, signals):
        """Train to the end, or until a rank has received the signal; return True at the end."""
        self.load()
        bar = tqdm(total=self.last, initial=self.step, disable=self.rank != 0 or None)  # None: only on a terminal
        self.since = self.step, time.monotonic()
        for rows in self.batches():
            loss = self.advance(rows)
            bar.update()
            if self.step % self.args.log_freq == 0 or self.step == self.last:
                self.write_log(loss)
            stop = torch.tensor(len(signals) + (self.step == self.last))
            dist.all_reduce(stop)  # some ranks may get the signal later, or not at all
            if stop or self.step % self.args.ckpt_freq == 0:
                self.save()
            if stop:
                break
        return self.step == self.last

    def batches(self):
        """The rows of each remaining step, one line per backward pass."""
        for epoch in range(self.step // self.each_epoch, self.args.num_epochs):
            self.sampler.set_epoch(epoch)  # otherwise each epoch has the same order
            rows = torch.tensor(list(self.sampler)[: self.each_epoch * self.args.grad_accum * self.args.batch_size])
            yield from rows.view(self.each_epoch, self.args.grad_accum, -1)[self.step % self.each_epoch :]

    def advance(self, rows):
        """Take one step; return the mean loss of this rank."""
        with self.model.no_sync():  # gradients accumulate locally; the last backward pass exchanges them
            losses = [self.backward(some) for some in rows[:-1]]
        losses.append(self.backward(rows[-1]))
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.schedule.step()
        self.step += 1
        return torch.stack(losses).mean()

    def backward(self, rows):
        """Add the gradients of these rows; return the loss."""
        tokens = self.blocks[rows].to(self.device, torch.long)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.cuda):
            logits = self.model(input_ids=tokens, use_cache=False).logits
        loss = torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1).float(), tokens[:, 1:].flatten())
        (loss / self.args.grad_accum).backward()
        return loss.detach()

    def write_log(self, loss):
        """Write a log line: the mean loss over all ranks in this step, and the throughput."""
        dist.all_reduce(loss)
        (step, then), self.since = self.since, (self.step, time.monotonic())
        tokens = (self.step - step) * self.ranks * self.args.grad_accum * self.args.batch_size * self.args.seq_length
        speed, mean, lr = round(tokens / (self.since[1] - then)), loss.item() / self.ranks, *self.schedule.get_last_lr()
        memory = (torch.cuda.max_memory_allocated() if self.cuda else getrusage(RUSAGE_SELF).ru_maxrss << 10) >> 20
        line = {"step": self.step, "loss": mean, "lr": lr, "tokens_per_s": speed, "memory_mb": memory}
        if self.rank == 0:
            self.log.write(json.dumps(line).encode() + b"\n")  # all digits, to compare two runs
            tqdm.write(f"step {self.step} of {self.last}: loss {mean:.4f}, {speed} tokens/s, {memory} MB on rank 0")

    def save(self):
        """Write checkpoint.pt: the state shared by all ranks, and the random number state of each."""
        rng = [None] * self.ranks
        dist.all_gather_object(rng, (torch.get_rng_state(), torch.cuda.get_rng_state() if self.cuda else None))
        if self.rank == 0:
            os.fsync(self.log.fileno())
            state = {name: part.state_dict() for name, part in self.kept.items()}
            write(self.folder / "checkpoint.pt", {**state, "step": self.step, "log": self.log.tell(), "rng": rng})
            tqdm.write(f"saved after step {self.step} of {self.last} in {self.folder}")

    def load(self):
        """Load the last checkpoint, if there is one."""
        path = self.folder / "checkpoint.pt"
        found = torch.tensor(int(path.exists()))
        dist.broadcast(found, 0)  # rank 0 decides for all
        state = torch.load(path, map_location="cpu") if found else {"step": 0, "log": 0}
        self.step = state["step"]
        if self.rank == 0:
            self.log = open(self.folder / "log.jsonl", "ab", buffering=0)
            self.log.truncate(state["log"])  # later lines are written again
            tqdm.write(f"starting after step {self.step} of {self.last}")
        if found:
            for name, part in self.kept.items():
                part.load_state_dict(state[name])
            torch.set_rng_state(state["rng"][self.rank][0])
            if self.cuda:
                torch.cuda.set_rng_state(state["rng"][self.rank][1])


def write(path, state):
    """Replace a file atomically: after a kill at any moment, the old or the new file is complete."""
    beside = path.with_suffix(".new")
    with open(beside, "wb") as file:
        torch.save(state, file)
        file.flush()
        os.fsync(file.fileno())
    os.replace(beside, path)


if __name__ == "__main__":
    main()
