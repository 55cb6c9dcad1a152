"""Rules about configurations of accelerate and DeepSpeed."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING

from muster.lint.rule import CONFIG, ERROR, WARNING, Finding, Rule

if TYPE_CHECKING:
    from muster.lint.configs import Config, Item


_TEMPLATE = re.compile(r"\$|[A-Z][A-Z_0-9]{2,}\b|\{\{|\{%|<[A-Za-z]|@")
"""What a program replaces before the file is read."""


def config_syntax(config: Config) -> Iterator[Finding]:
    """A file that cannot be parsed."""
    if config.fault and not _TEMPLATE.match(config.source.text[config.fault[0].start :]):
        span, reason = config.fault
        yield Finding(span, f"the file is not valid {'JSON' if config.is_json else 'YAML'}: {reason}")


def config_duplicate_key(config: Config) -> Iterator[Finding]:
    """A key that stands twice."""
    from muster.lint.configs import duplicates

    if config.is_deepspeed or config.is_accelerate:
        for name, span in duplicates(config):
            yield Finding(span, f"`{name}` is set twice; only the last one counts")


def batch_sizes(config: Config) -> Iterator[Finding]:
    """Batch sizes that do not multiply."""
    if not config.is_deepspeed:
        return
    total, micro, steps = (
        config.root.get(name)
        for name in ("train_batch_size", "train_micro_batch_size_per_gpu", "gradient_accumulation_steps")
    )
    sizes = [item.number for item in (micro, steps) if item is not None]
    if total is None or total.number is None or not sizes or any(size is None for size in sizes):
        return
    product = 1
    for size in sizes:
        product *= size or 1
    if total.number % product:
        factors = " x ".join(str(size) for size in sizes)
        yield Finding(
            total.span, f"train_batch_size is {total.number}, which is not a multiple of {factors} = {product}"
        )


def two_precisions(config: Config) -> Iterator[Finding]:
    """fp16 and bf16 at the same time."""
    first, second = config.root.get("fp16", "enabled"), config.root.get("bf16", "enabled")
    second = second or config.root.get("bfloat16", "enabled")
    if config.is_deepspeed and first is not None and second is not None and first.is_true and second.is_true:
        yield Finding(second.span, "fp16 and bf16 are both enabled")


def fp16_on_cpu(config: Config) -> Iterator[Finding]:
    """fp16 where there are no GPUs."""
    precision, cpu = config.root.get("mixed_precision"), config.root.get("use_cpu")
    kind = config.root.get("distributed_type")
    on_cpu = (cpu is not None and cpu.is_true) or (kind is not None and kind.text == "MULTI_CPU")
    if config.is_accelerate and precision is not None and precision.text == "fp16" and on_cpu:
        yield Finding(precision.span, "mixed_precision is fp16, and training runs on the CPU")
    half, accelerator = config.root.get("fp16", "enabled"), config.root.get("accelerator")
    if (
        config.is_deepspeed
        and half is not None
        and half.is_true
        and accelerator is not None
        and accelerator.text == "cpu"
    ):
        yield Finding(half.span, "fp16 is enabled, and the accelerator is the CPU")


def offload_without_stage(config: Config) -> Iterator[Finding]:
    """Offloading that the stage of ZeRO does not do."""
    zero = config.root.get("zero_optimization") if config.is_deepspeed else None
    stage = zero.get("stage") if zero is not None else None
    if zero is None or (stage is not None and stage.number is None):
        return
    number = stage.number if stage is not None and stage.number is not None else 0
    for name, least in (("offload_param", 3), ("offload_optimizer", 1)):
        item = zero.get(name)
        device = item.get("device") if item is not None else None
        if (
            item is not None
            and isinstance(item.value, dict)
            and number < least
            and (device is None or device.text != "none")
        ):
            yield Finding(item.key or item.span, f"`{name}` has no effect in stage {number}; it requires stage {least}")


def accelerate_processes(config: Config) -> Iterator[Finding]:
    """num_processes with the number of one machine."""
    machines, processes = _number(config, "num_machines"), config.root.get("num_processes")
    if not config.is_accelerate or machines is None or machines < 2 or processes is None or processes.number is None:
        return
    if processes.number % machines:
        yield Finding(
            processes.span, f"num_processes is {processes.number}, which {machines} machines cannot share evenly"
        )


def _number(config: Config, name: str) -> int | None:
    item: Item | None = config.root.get(name)
    return item.number if item is not None else None


def machine_rank_too_large(config: Config) -> Iterator[Finding]:
    """machine_rank that does not exist."""
    machines, rank = _number(config, "num_machines"), config.root.get("machine_rank")
    if (
        config.is_accelerate
        and machines is not None
        and rank is not None
        and rank.number is not None
        and rank.number >= machines
    ):
        yield Finding(rank.span, f"machine_rank is {rank.number}, and machines are numbered from 0 to {machines - 1}")


def main_address_missing(config: Config) -> Iterator[Finding]:
    """Several machines without the address of the first."""
    machines = config.root.get("num_machines")
    if not config.is_accelerate or machines is None or (machines.number or 0) < 2:
        return
    address = config.root.get("main_process_ip")
    hostfile = config.root.get("deepspeed_config", "deepspeed_hostfile")
    if hostfile is None and address is not None and address.text in ("localhost", "127.0.0.1"):
        yield Finding(address.span, f"main_process_ip is {address.text}, which is another host on each machine")


def fixed_port(config: Config) -> Iterator[Finding]:
    """The default port, or one of tutorials."""
    port = config.root.get("main_process_port") if config.is_accelerate else None
    if port is not None and port.number in (29500, 12345, 12355, 23456, 1234):
        yield Finding(port.span, f"port {port.number} is the same for all jobs, and a common choice")


def distributed_type_none(config: Config) -> Iterator[Finding]:
    """Several processes with a type that starts one."""
    kind, processes = config.root.get("distributed_type"), config.root.get("num_processes")
    if not config.is_accelerate or kind is None or kind.text.upper() != "NO" or processes is None:
        return
    if (processes.number or 0) > 1:
        yield Finding(kind.span, f"distributed_type is NO, and num_processes is {processes.number}: one process starts")


_ACCELERATE = (
    "compute_environment: LOCAL_MACHINE\ndistributed_type: MULTI_GPU\nmain_process_ip: n1\nmain_process_port: 20001\n"
)
RULES = (
    Rule(
        "accelerate-fixed-port",
        WARNING,
        CONFIG,
        fixed_port,
        "main_process_port with a port that many configurations use",
        "Two jobs on one machine want the same port: `Address already in use`, or ranks join the wrong job.",
        "Leave it out and give `--main_process_port` on the command line, derived from the job id.",
        f"{_ACCELERATE.replace('20001', '29500')}num_machines: 2\nmachine_rank: 1\nnum_processes: 8\n",
        f"{_ACCELERATE}num_machines: 2\nmachine_rank: 1\nnum_processes: 8\n",
    ),
    Rule(
        "config-syntax",
        ERROR,
        CONFIG,
        config_syntax,
        "JSON or YAML that cannot be parsed",
        "The launcher ends with a traceback when it reads the file.",
        "Correct the place that is shown: often a comma too many, or a missing quote.",
        '{\n  "train_batch_size": 16,\n}\n',
        '{\n  "train_batch_size": 16\n}\n',
    ),
    Rule(
        "config-duplicate-key",
        WARNING,
        CONFIG,
        config_duplicate_key,
        "a key that stands twice",
        "Parsers keep the last one without a word.",
        "Delete one of them.",
        '{\n  "train_batch_size": 16,\n  "train_batch_size": 32\n}\n',
        '{\n  "train_batch_size": 32\n}\n',
    ),
    Rule(
        "deepspeed-batch-sizes",
        ERROR,
        CONFIG,
        batch_sizes,
        "batch sizes of DeepSpeed that do not multiply",
        "DeepSpeed requires train_batch_size = train_micro_batch_size_per_gpu x gradient_accumulation_steps x ranks, "
        "and ends with an assertion otherwise.",
        "Leave out one of the three, which DeepSpeed then computes.",
        '{\n  "train_batch_size": 100,\n  "train_micro_batch_size_per_gpu": 8,\n  "gradient_accumulation_steps": '
        "4\n}\n",
        '{\n  "train_batch_size": 128,\n  "train_micro_batch_size_per_gpu": 8,\n  "gradient_accumulation_steps": '
        "4\n}\n",
    ),
    Rule(
        "deepspeed-two-precisions",
        ERROR,
        CONFIG,
        two_precisions,
        "fp16 and bf16 enabled together",
        "DeepSpeed ends with an assertion.",
        "Enable one of them.",
        '{\n  "train_batch_size": 16,\n  "fp16": {"enabled": true},\n  "bf16": {"enabled": true}\n}\n',
        '{\n  "train_batch_size": 16,\n  "fp16": {"enabled": false},\n  "bf16": {"enabled": true}\n}\n',
    ),
    Rule(
        "fp16-on-cpu",
        ERROR,
        CONFIG,
        fp16_on_cpu,
        "fp16 in a configuration for the CPU",
        "Many operations have no fp16 on a CPU, and loss scaling requires a GPU.",
        "Use bf16 or no mixed precision on a CPU.",
        "compute_environment: LOCAL_MACHINE\ndistributed_type: MULTI_CPU\nuse_cpu: true\nmixed_precision: fp16\n",
        "compute_environment: LOCAL_MACHINE\ndistributed_type: MULTI_CPU\nuse_cpu: true\nmixed_precision: bf16\n",
    ),
    Rule(
        "deepspeed-offload-stage",
        WARNING,
        CONFIG,
        offload_without_stage,
        "offloading that the stage of ZeRO does not do",
        "offload_param requires stage 3, offload_optimizer stage 1. Below it nothing is offloaded, and memory runs "
        "out.",
        "Raise the stage, or delete the key.",
        '{\n  "train_batch_size": 16,\n  "zero_optimization": {"stage": 2, "offload_param": {"device": "cpu"}}\n}\n',
        '{\n  "train_batch_size": 16,\n  "zero_optimization": {"stage": 3, "offload_param": {"device": "cpu"}}\n}\n',
    ),
    Rule(
        "accelerate-config-processes",
        ERROR,
        CONFIG,
        accelerate_processes,
        "num_processes that the machines cannot share",
        "num_processes counts the ranks of all machines. accelerate divides it by num_machines and drops the rest.",
        "Multiply the GPUs of a machine by the number of machines.",
        f"{_ACCELERATE}num_machines: 4\nmachine_rank: 0\nnum_processes: 2\n",
        f"{_ACCELERATE}num_machines: 4\nmachine_rank: 0\nnum_processes: 32\n",
    ),
    Rule(
        "accelerate-machine-rank",
        ERROR,
        CONFIG,
        machine_rank_too_large,
        "machine_rank of a machine that does not exist",
        "The rendezvous waits for machine 0 to num_machines - 1 until it times out.",
        "Number the machines from 0.",
        f"{_ACCELERATE}num_machines: 2\nmachine_rank: 2\nnum_processes: 8\n",
        f"{_ACCELERATE}num_machines: 2\nmachine_rank: 1\nnum_processes: 8\n",
    ),
    Rule(
        "accelerate-loopback",
        ERROR,
        CONFIG,
        main_address_missing,
        "several machines with main_process_ip on localhost",
        "Each machine connects to itself, and waits for the others until the time-out.",
        "Give the address of the machine with machine_rank 0.",
        f"{_ACCELERATE.replace('n1', 'localhost')}num_machines: 2\nmachine_rank: 1\nnum_processes: 8\n",
        f"{_ACCELERATE}num_machines: 2\nmachine_rank: 1\nnum_processes: 8\n",
    ),
    Rule(
        "accelerate-one-process",
        ERROR,
        CONFIG,
        distributed_type_none,
        "distributed_type NO with several processes",
        "accelerate starts the script once, on one GPU.",
        "Set distributed_type to MULTI_GPU, DEEPSPEED or FSDP.",
        "compute_environment: LOCAL_MACHINE\ndistributed_type: 'NO'\nnum_machines: 1\nnum_processes: 4\n",
        "compute_environment: LOCAL_MACHINE\ndistributed_type: MULTI_GPU\nnum_machines: 1\nnum_processes: 4\n",
    ),
)
