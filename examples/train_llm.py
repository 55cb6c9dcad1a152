"""Train a language model by DistributedDataParallel. It works under any launcher, and alone.

python examples/train_llm.py                                 # a small GPT-2 on fables.txt; nothing is fetched
muster run -g 4 examples/train_llm.py --experiment-name fables
torchrun --nproc-per-node 8 examples/train_llm.py --model-name openai-community/gpt2 --dataset-name tatsu-lab/alpaca

Killed at any moment, the same command goes on at the last checkpoint, and gives the losses that it would have given:
bit for bit on CPUs. SIGUSR1 to one rank or to all saves after the step that runs, and ends all with status 75.
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

FREE = ("experiment_name", "save_dir", "num_epochs", "log_freq", "ckpt_freq", "local_rank")  # may change on the way


def options():
    """What was typed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--experiment-name", default="llm", help="its folder; the same name again goes on")
    add("--save-dir", type=Path, default="outputs", help="where that folder is; all hosts must share it")
    add("--model-name", default="tiny", help="`tiny`, a causal LM of Hugging Face, or a folder with one")
    add("--random-weights", action="store_true", help="its size and tokenizer, but not its weights")
    for name, value in (("--layers", 4), ("--width", 128), ("--heads", 4)):
        add(name, type=int, default=value, help="of `tiny`, a GPT-2 that reads bytes")
    add("--dataset-name", default="fables", help="`fables`, one of Hugging Face with a column `text`, or a text file")
    add("--batch-size", type=int, default=8, help="of each rank, in one backward")
    add("--grad-accum", type=int, default=1, help="backwards in one step")
    add("--seq-length", type=int, default=128, help="in tokens")
    add("--lr", type=float, help="3e-5 without it, or 1e-3 from random weights")
    add("--num-epochs", type=int, default=10)
    add("--log-freq", type=int, default=10, help="in steps")
    add("--ckpt-freq", type=int, default=500, help="in steps")
    add("--seed", type=int, default=0)
    add("--local-rank", "--local_rank", type=int, default=0, help="some launchers pass it")
    args = parser.parse_args()
    args.random_weights |= args.model_name == "tiny"
    args.lr = args.lr or (1e-3 if args.random_weights else 3e-5)
    return args


def main():
    """Prepare on rank 0, join the others, train, leave."""
    heard = []
    signal.signal(signal.SIGUSR1, lambda *_: heard.append("SIGUSR1"))
    sys.stdout.reconfigure(line_buffering=True)  # lines are seen as they come, in a pipe too
    args = options()
    folder = args.save_dir / args.experiment_name
    if int(os.environ.get("RANK", 0)) == 0:
        prepare(args, folder)  # the others wait for it where they join: nothing is fetched twice, one rank complains
    ended = Training(args, folder, join(args)).run(heard)
    dist.barrier()  # a launcher may end all when the first one ends, and rank 0 writes longest
    dist.destroy_process_group()
    sys.exit(0 if ended else 75)  # EX_TEMPFAIL of sysexits.h: not done, start me again


def prepare(args, folder):
    """Write start.pt, with all that the training begins with: configuration, weights, tokens. Once; later, compare."""
    asked = {name: value for name, value in vars(args).items() if name not in FREE}
    asked["ranks"] = int(os.environ.get("WORLD_SIZE", 1))
    if (folder / "start.pt").exists():
        before = torch.load(folder / "start.pt", mmap=True)["asked"]
        if other := [f"{name} {before[name]}, not {now}" for name, now in asked.items() if before[name] != now]:
            raise SystemExit(f"{folder} was begun with {'; '.join(other)}\nhint: give another --experiment-name")
        return
    try:
        model, tokens = fetch(args)
    except (OSError, ValueError, KeyError) as error:  # no network, no such name, no text in it
        why = f"{str(error).splitlines()[0]}\nhint: are the names right, and is there a network?"
        raise SystemExit(f"cannot get {args.model_name} and {args.dataset_name}: {why}") from error
    rows = len(tokens) // args.seq_length
    if rows < asked["ranks"] * args.batch_size * args.grad_accum:
        raise SystemExit(f"{args.dataset_name} is too short for one step\nhint: try a smaller --batch-size")
    blocks, config = tokens[: rows * args.seq_length].view(rows, -1), model.config.to_json_string(use_diff=False)
    folder.mkdir(parents=True, exist_ok=True)
    write(folder / "start.pt", {"asked": asked, "config": config, "weights": model.state_dict(), "blocks": blocks})


def fetch(args):
    """The model, and the tokens of all texts in a row."""
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
        raise SystemExit(f"{args.model_name} sees {config.max_position_embeddings} tokens\nhint: lower --seq-length")
    tokens = torch.cat([torch.tensor([*encode(text), end], dtype=torch.int32) for text in texts])
    torch.manual_seed(args.seed)
    load = AutoModelForCausalLM.from_config if args.random_weights else AutoModelForCausalLM.from_pretrained
    return load(config if args.random_weights else args.model_name, dtype=torch.float32), tokens


def join(args):
    """Meet the other ranks; give the device of this one."""
    cuda = torch.cuda.is_available()
    if cuda:
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", args.local_rank)))
    alone = {} if "RANK" in os.environ else {"store": dist.HashStore(), "rank": 0, "world_size": 1}  # it needs no port
    dist.init_process_group("cpu:gloo,cuda:nccl" if cuda else "gloo", **alone)  # gloo too: some words need no GPU
    return torch.device("cuda", torch.cuda.current_device()) if cuda else torch.device("cpu")


class Training:
    """All that the next step depends on."""

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
        # After its first backward DDP sorts the gradients into buckets anew. Where a value lies in a bucket decides in
        # which order more than 2 ranks add it up, so the first step after a resumption would differ in the last digits
        # from the same step of a run that was not interrupted. A backward for nothing makes the buckets alike in both.
        self.backward(torch.arange(args.batch_size))
        self.optimizer.zero_grad()
        torch.manual_seed(args.seed + self.rank)  # each rank drops out other units

    def run(self, heard):
        """Train to the end, or until a rank has heard the signal; True if it is the end."""
        self.load()
        bar = tqdm(total=self.last, initial=self.step, disable=self.rank != 0 or None)  # None: not without a terminal
        self.since = self.step, time.monotonic()
        for rows in self.batches():
            loss = self.advance(rows)
            bar.update()
            if self.step % self.args.log_freq == 0 or self.step == self.last:
                self.tell(loss)
            stop = torch.tensor(len(heard) + (self.step == self.last))
            dist.all_reduce(stop)  # the signal may have reached some ranks only, or others a step later
            if stop or self.step % self.args.ckpt_freq == 0:
                self.save()
            if stop:
                break
        return self.step == self.last

    def batches(self):
        """The rows of each step that is left, one line of them for each backward."""
        for epoch in range(self.step // self.each_epoch, self.args.num_epochs):
            self.sampler.set_epoch(epoch)  # else each epoch has the same order
            rows = torch.tensor(list(self.sampler)[: self.each_epoch * self.args.grad_accum * self.args.batch_size])
            yield from rows.view(self.each_epoch, self.args.grad_accum, -1)[self.step % self.each_epoch :]

    def advance(self, rows):
        """One step; gives the mean loss of this rank."""
        with self.model.no_sync():  # the gradients of all backwards are added up first, and exchanged by the last one
            losses = [self.backward(some) for some in rows[:-1]]
        losses.append(self.backward(rows[-1]))
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.schedule.step()
        self.step += 1
        return torch.stack(losses).mean()

    def backward(self, rows):
        """Add to the gradients what these rows say; gives the loss."""
        tokens = self.blocks[rows].to(self.device, torch.long)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.cuda):
            logits = self.model(input_ids=tokens, use_cache=False).logits
        loss = torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1).float(), tokens[:, 1:].flatten())
        (loss / self.args.grad_accum).backward()
        return loss.detach()

    def tell(self, loss):
        """Write a line of the log: the mean loss of all ranks in this step, and how fast it goes."""
        dist.all_reduce(loss)
        (step, then), self.since = self.since, (self.step, time.monotonic())
        tokens = (self.step - step) * self.ranks * self.args.grad_accum * self.args.batch_size * self.args.seq_length
        speed, mean, lr = round(tokens / (self.since[1] - then)), loss.item() / self.ranks, *self.schedule.get_last_lr()
        memory = (torch.cuda.max_memory_allocated() if self.cuda else getrusage(RUSAGE_SELF).ru_maxrss << 10) >> 20
        line = {"step": self.step, "loss": mean, "lr": lr, "tokens_per_s": speed, "memory_mb": memory}
        if self.rank == 0:
            self.log.write(json.dumps(line).encode() + b"\n")  # with all digits, so that two runs can be compared
            tqdm.write(f"step {self.step} of {self.last}: loss {mean:.4f}, {speed} tokens/s, {memory} MB on rank 0")

    def save(self):
        """Write checkpoint.pt: what all ranks have alike, and the random numbers of each."""
        rng = [None] * self.ranks
        dist.all_gather_object(rng, (torch.get_rng_state(), torch.cuda.get_rng_state() if self.cuda else None))
        if self.rank == 0:
            os.fsync(self.log.fileno())
            state = {name: part.state_dict() for name, part in self.kept.items()}
            write(self.folder / "checkpoint.pt", {**state, "step": self.step, "log": self.log.tell(), "rng": rng})
            tqdm.write(f"saved after step {self.step} of {self.last} in {self.folder}")

    def load(self):
        """Go back to the last checkpoint, if there is one."""
        path = self.folder / "checkpoint.pt"
        found = torch.tensor(int(path.exists()))
        dist.broadcast(found, 0)  # rank 0 decides for all
        state = torch.load(path, map_location="cpu") if found else {"step": 0, "log": 0}
        self.step = state["step"]
        if self.rank == 0:
            self.log = open(self.folder / "log.jsonl", "ab", buffering=0)
            self.log.truncate(state["log"])  # what came after it comes again
            tqdm.write(f"begins after step {self.step} of {self.last}")
        if found:
            for name, part in self.kept.items():
                part.load_state_dict(state[name])
            torch.set_rng_state(state["rng"][self.rank][0])
            if self.cuda:
                torch.cuda.set_rng_state(state["rng"][self.rank][1])


def write(path, state):
    """Replace a file at once: whenever this is killed there is the old one, or the new one, whole."""
    beside = path.with_suffix(".new")
    with open(beside, "wb") as file:
        torch.save(state, file)
        file.flush()
        os.fsync(file.fileno())
    os.replace(beside, path)


if __name__ == "__main__":
    main()
