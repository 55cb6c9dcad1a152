"""How launchers, Slurm's commands and wrappers read their command lines: which options have values.

Written from the manuals of Slurm 25.11, torchrun of torch 2.13, accelerate 1.15, DeepSpeed 0.19, Open MPI 5, MPICH 4
and OpenSSH 9. An option that is missing here is taken for one with a value if the word after it does not begin with
`-`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple


class Syntax(NamedTuple):
    """How a program reads its options."""

    flags: frozenset[str] = frozenset()
    """Long options without a value, or with one only behind `=`."""
    short: Mapping[str, str] = {}
    """Canonical long names of short options with a value; without hyphen on the left."""
    short_flags: Mapping[str, str] = {}
    """Canonical names of short options without a value, or with one only attached."""
    same: Mapping[str, str] = {}
    """Other spellings of long options: canonical names."""
    argparse: bool = False
    """`_` and `-` are the same, short options may not be bundled, `-h` is like a long option."""
    single: bool = False
    """Long options also begin with a single hyphen, as for mpirun and nsys."""
    pairs: frozenset[str] = frozenset()
    """Options with two values."""
    only: frozenset[str] | None = None
    """The long options that have values, where all others have none."""


def _names(text: str) -> frozenset[str]:
    return frozenset(f"--{name}" for name in text.split())


def _short(text: str) -> dict[str, str]:
    return {pair[0]: f"--{pair[2:]}" for pair in text.split()}


_SLURM_SHORT = """A=account B=extra-node-info c=cpus-per-task C=constraint d=dependency D=chdir e=error F=nodefile \
G=gpus i=input J=job-name L=licenses m=distribution M=clusters n=ntasks N=nodes o=output p=partition q=qos S=core-spec \
t=time w=nodelist x=exclude"""
_SLURM_FLAGS = """contiguous exclusive get-user-env hold ignore-pbs kill-on-invalid-dep no-kill no-requeue overcommit \
oversubscribe parsable quiet requeue reboot spread-job test-only use-min-nodes verbose version wait-all help usage \
immediate propagate x11"""
_SLURM_SAME = {
    "--workdir": "--chdir",
    "--tasks": "--ntasks",
    "--tasks-per-node": "--ntasks-per-node",
    "--share": "--oversubscribe",
    "--gpus-per-nodes": "--gpus-per-node",
    "--qos": "--qos",
}

SBATCH = Syntax(
    _names(_SLURM_FLAGS) - {"--wait-all"} | {"--wait"},
    {**_short(_SLURM_SHORT), **_short("a=array b=begin")},
    _short("H=hold I=immediate k=no-kill O=overcommit Q=quiet s=oversubscribe v=verbose V=version W=wait h=help"),
    _SLURM_SAME,
)
SRUN = Syntax(
    _names(
        f"{_SLURM_FLAGS} bcast disable-status exact kill-on-bad-exit label multi-prog no-allocate overlap pty "
        "unbuffered preserve-env send-libs container-mount-home no-container-mount-home container-remap-root whole "
        "no-container-remap-root container-writable container-readonly no-container-entrypoint interactive"
    ),
    {
        **_short(_SLURM_SHORT),
        **_short("P=dependency r=relative T=threads U=time W=wait a=attach"),
    },
    _short(
        "E=preserve-env H=hold h=help I=immediate k=no-kill K=kill-on-bad-exit l=label O=overcommit Q=quiet "
        "s=oversubscribe u=unbuffered v=verbose V=version X=disable-status Z=no-allocate b=batch"
    ),
    _SLURM_SAME,
)
SALLOC = Syntax(
    SBATCH.flags | _names("no-shell bell no-bell"),
    SBATCH.short,
    {**SBATCH.short_flags, "K": "--kill-command"},
    _SLURM_SAME,
)

TORCHRUN = Syntax(
    _names("standalone module no-python run-path help use-env print-completion"),
    _short("r=redirects t=tee"),
    _short("m=module h=help"),
    {
        "--nproc": "--nproc-per-node",
        "--nnode": "--nnodes",
        "--master-address": "--master-addr",
        "--node-id": "--node-rank",
    },
    argparse=True,
)
ACCELERATE = Syntax(
    _names(
        "multi-gpu cpu tpu use-xpu use-deepspeed use-fsdp use-megatron-lm use-mps-device same-network module no-python "
        "debug quiet enable-cpu-affinity tpu-cluster no-tpu-cluster tpu-use-sudo use-parallelism-config help ipex "
        "use-tpu use-cpu tpu-use-cluster fp8 enable-numa-affinity"
    ),
    {},
    _short("m=module q=quiet h=help"),
    {"--num-process": "--num-processes", "--num-machine": "--num-machines"},
    argparse=True,
)
DEEPSPEED = Syntax(
    _names(
        "module no-python no-local-rank no-ssh no-ssh-check force-multi save-pid bind-cores-to-rank elastic-training "
        "help use-pdsh"
    ),
    _short("H=hostfile i=include e=exclude"),
    _short("h=help"),
    {},
    argparse=True,
)
MPIRUN = Syntax(
    _names(
        "allow-run-as-root oversubscribe nooversubscribe report-bindings display-map display-allocation tag-output q "
        "quiet timestamp-output v verbose use-hwthread-cpus nolocal bynode byslot bycore pernode no-local "
        "do-not-launch merge-stderr-to-stdout V version help genvall envall genvnone envnone l prepend-rank xterm "
        "continuous enable-recovery disable-recovery show-progress display-topo novm dvm nocurrentworkdir "
        "bind-to-core bind-to-socket bind-to-none h l debug usize-infinite print-all-exitcodes"
    ),
    {},
    {},
    {
        "--np": "--n",
        "--c": "--n",
        "--npernode": "--ppn",
        "--N": "--ppn",
        "--perhost": "--ppn",
        "--ppn": "--ppn",
        "--host": "--hosts",
        "--H": "--hosts",
        "--machinefile": "--hostfile",
        "--f": "--hostfile",
        "--mca": "--mca",
        "--wd": "--wdir",
    },
    single=True,
    pairs=_names("mca gmca pmixmca prtemca omca genv env"),
)
SSH = Syntax(
    frozenset(),
    {letter: f"-{letter}" for letter in "bcDEeFIiJLlmOopQRSWwB"},
    {letter: f"-{letter}" for letter in "1246AaCfGgKkMNnqsTtVvXxYy"},
)
PDSH = Syntax(
    frozenset(),
    {letter: f"-{letter}" for letter in "wxlRtufgGoMIPj"},
    {letter: f"-{letter}" for letter in "SabciNqdhVLnT"},
)
BASH = Syntax(
    _names("login posix norc noprofile verbose restricted"),
    {"o": "-o", "O": "-O"},
    {letter: f"-{letter}" for letter in "abcefhiklmnpqrstuvxBCDEHPT"},
)
PYTHON = Syntax(frozenset(), {"W": "-W", "X": "-X"}, {letter: f"-{letter}" for letter in "bBdEhiIOqPsSuvVx"})


class Wrapper(NamedTuple):
    """A program that starts another one."""

    syntax: Syntax
    operands: int = 0
    """Number of its operands before the program that it starts."""
    words: tuple[str, ...] = ()
    """Subcommand, before the options."""
    assigns: bool = False
    """`NAME=value` may stand before the program."""


def _wrapper(
    flags: str = "", short: str = "", switches: str = "", operands: int = 0, sub: str = "", assigns: bool = False
) -> Wrapper:
    """A wrapper by its options: long ones without a value, short ones with and without one."""
    return Wrapper(Syntax(_names(flags), _short(short), _short(switches)), operands, (sub,) if sub else (), assigns)


_CONTAINER_FLAGS = (
    "nv nvccli rocm cleanenv containall contain no-home writable-tmpfs writable fakeroot userns pid ipc net no-init "
    "compat no-privs keep-privs unsquash vm no-umask no-eval uts disable-cache nohttps no-https sharens"
)
_CONTAINER = (
    _CONTAINER_FLAGS,
    "B=bind H=home W=workdir S=scratch o=overlay",
    "c=contain e=cleanenv C=containall f=fakeroot i=ipc p=pid u=userns w=writable",
    1,
)
_DOCKER = (
    "rm detach interactive tty init privileged read-only publish-all no-healthcheck quiet sig-proxy help",
    "e=env v=volume w=workdir u=user p=publish m=memory h=hostname l=label a=attach c=cpu-shares",
    "d=detach i=interactive t=tty P=publish-all q=quiet",
    1,
)
_UV_FLAGS = (
    "no-sync frozen locked isolated active no-project offline quiet verbose all-extras all-groups no-dev dev exact "
    "no-cache no-config module"
)
_UV = (
    _UV_FLAGS,
    "p=python",
    "q=quiet v=verbose n=no-cache",
)
_NSYS = "t=trace o=output f=force-overwrite w=show-output s=sample x=stop-on-exit c=capture-range y=delay d=duration"
_NUMACTL = "N=cpunodebind C=physcpubind m=membind i=interleave p=preferred"
_SCREEN = "S=sessionname T=term c=rcfile h=scrollback s=shell p=window t=title"
_XARGS = "a=arg-file I=replace n=max-args L=max-lines P=max-procs d=delimiter s=max-chars"
_SCANCEL = "s=signal n=name u=user p=partition t=state w=nodelist A=account q=qos"

WRAPPERS: Mapping[str, tuple[Wrapper, ...]] = {
    "srun": (Wrapper(SRUN),),
    "salloc": (Wrapper(SALLOC),),
    "mpirun": (Wrapper(MPIRUN),),
    "env": (_wrapper("ignore-environment null", "u=unset C=chdir S=split-string", "i=i 0=null", assigns=True),),
    "nohup": (_wrapper(),),
    "command": (_wrapper(switches="p=p v=v V=V"),),
    "builtin": (_wrapper(),),
    "exec": (_wrapper(short="a=a", switches="c=c l=l"),),
    "time": (_wrapper("verbose portability append", "f=format o=output", "p=p v=v a=a"),),
    "setsid": (_wrapper("fork wait ctty", switches="f=fork w=wait c=ctty"),),
    "stdbuf": (_wrapper(short="i=input o=output e=error"),),
    "unbuffer": (_wrapper(switches="p=p"),),
    "nice": (_wrapper(short="n=adjustment"),),
    "ionice": (_wrapper(short="c=class n=classdata", switches="t=ignore"),),
    "sudo": (_wrapper("preserve-env non-interactive", "u=user g=group", "E=E n=n H=H", assigns=True),),
    "timeout": (_wrapper("preserve-status foreground verbose", "k=kill-after s=signal", "v=v", 1),),
    "numactl": (_wrapper("localalloc show hardware all", _NUMACTL, "l=localalloc a=all"),),
    "taskset": (_wrapper("all-tasks cpu-list", switches="a=all c=cpu-list", operands=1),),
    "singularity": (_wrapper(*_CONTAINER, sub="exec"), _wrapper(*_CONTAINER, sub="run")),
    "singularity_wrapper": (_wrapper(sub="exec"), _wrapper(sub="run")),
    "shifter": (_wrapper("clearenv", "V=volume E=env e=env I=image m=module w=workdir"),),
    "enroot": (_wrapper("rw root", "m=mount e=env c=conf", operands=1, sub="start"),),
    "docker": (_wrapper(*_DOCKER, sub="run"), _wrapper(*_DOCKER, sub="exec")),
    "conda": (_wrapper("no-capture-output live-stream debug-wrapper-scripts", "n=name p=prefix", sub="run"),),
    "screen": (_wrapper("", _SCREEN, "d=d m=m D=D R=R U=U L=L q=q a=a A=A"),),
    "uv": (_wrapper(*_UV, sub="run"),),
    "poetry": (_wrapper(sub="run"),),
    "pipenv": (_wrapper(sub="run"),),
    "pdm": (_wrapper(sub="run"),),
    "rye": (_wrapper(sub="run"),),
    "pixi": (_wrapper("frozen locked", "e=environment", sub="run"),),
    "nsys": (_wrapper(short=_NSYS, sub="profile"),),
    "ncu": (_wrapper(short="o=export f=force k=kernel-name"),),
    "xargs": (_wrapper("no-run-if-empty null verbose", _XARGS, "0=null r=no-run-if-empty t=verbose"),),
    "torchrun": (Wrapper(TORCHRUN),),
    "torch.distributed.launch": (Wrapper(TORCHRUN),),
    "accelerate": (Wrapper(ACCELERATE, 0, ("launch",)),),
    "deepspeed": (Wrapper(DEEPSPEED),),
    "ssh": (Wrapper(SSH, 1),),
    "pdsh": (Wrapper(PDSH),),
    "clush": (Wrapper(PDSH),),
    "python": (Wrapper(PYTHON),),
    "sbatch": (Wrapper(SBATCH),),
    "scancel": (_wrapper("batch full hurry interactive ctld quiet", _SCANCEL, "b=batch f=full Q=quiet"),),
}
"""The programs whose options are read, by name; those with several forms, by subcommand."""

ENDS = frozenset({"python", "sbatch", "scancel", "torchrun", "torch.distributed.launch", "accelerate", "deepspeed"})
"""Programs after which no further program of a shell follows: what they start is a script of Python, or nothing."""

ALIASES: Mapping[str, str] = {
    "mpiexec": "mpirun",
    "mpiexec.hydra": "mpirun",
    "orterun": "mpirun",
    "prterun": "mpirun",
    "apptainer": "singularity",
    "podman": "docker",
    "podman-hpc": "docker",
    "nerdctl": "docker",
    "apptainer_wrapper": "singularity_wrapper",
    "mamba": "conda",
    "micromamba": "conda",
    "deepspeed.pt": "deepspeed",
    "accelerate-launch": "accelerate",
    "torch.distributed.run": "torchrun",
    "zsh": "bash",
    "sh": "bash",
    "dash": "bash",
    "ksh": "bash",
}
