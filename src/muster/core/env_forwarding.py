"""Which variables go from this machine to the ranks on other hosts. Touches nothing.

On this machine ranks inherit everything. Over ssh nothing comes along by itself, and people lose an afternoon over one
variable; so what is about training goes by default, and the rest by `--env`.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from muster.errors import InvalidRequest

PREFIXES = (
    *("TORCH_", "PYTORCH_", "TORCHINDUCTOR_", "TORCHDYNAMO_", "CUBLAS_", "CUDNN_", "CUDA_", "NVIDIA_", "NVTE_"),
    *("NCCL_", "GLOO_", "TP_", "UCX_", "UCC_", "FI_", "RCCL_", "HIP_", "HSA_", "ROCM_", "MIOPEN_", "IBV_"),
    *("OMP_", "MKL_", "KMP_", "GOMP_", "OPENBLAS_", "NUMEXPR_", "TRITON_", "XLA_", "PJRT_"),
    *("HF_", "HUGGINGFACE_", "TRANSFORMERS_", "DATASETS_", "ACCELERATE_", "DEEPSPEED_", "DS_", "TOKENIZERS_"),
    *("WANDB_", "MLFLOW_", "COMET_", "NEPTUNE_", "CLEARML_", "TENSORBOARD_", "AWS_", "LC_", "SSL_CERT_", "PYTHON"),
)
"""What begins like this goes to the hosts."""

NAMES = (
    *("LANG", "TZ", "PYTHONPATH", "LD_LIBRARY_PATH", "LD_PRELOAD", "LIBRARY_PATH", "VIRTUAL_ENV", "CONDA_PREFIX"),
    *("CONDA_DEFAULT_ENV", "CURL_CA_BUNDLE", "REQUESTS_CA_BUNDLE", "NO_COLOR", "FORCE_COLOR"),
    *("HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "no_proxy", "all_proxy"),
)
"""So do these."""

LOCAL_ONLY = ("CUDA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES", "NVIDIA_VISIBLE_DEVICES")
"""These are about this machine alone, and never go by themselves."""

NEVER_FORWARDED = (
    "TORCHELASTIC_",
    "MUSTER_",
    "PET_",
    "PYTHONDONTWRITEBYTECODE",
    "PYTHONSTARTUP",
    "PYTHONHOME",
    "PYTHONINSPECT",
)
"""Nor do these: of a launcher, or of the person's own Python here."""

_SECRET = re.compile(
    r"PASS|SECRET|CREDENTIAL|APIKEY|TOKEN(?!IZ)|PRIVATE"  # anywhere: PGPASSWORD, HF_TOKEN
    r"|(?:^|_)(?:KEYS?|CREDS?|AUTH(?:ORIZATION)?|COOKIES?|DSN|JWT|SAS|PW)(?:_|$)|_PWD(?:_|$)",
    re.IGNORECASE,
)
"""In the names of variables whose values are shown to nobody."""

_SECRET_VALUE = re.compile(r"://[^/@\s:]+:[^/@\s]+@")
"""In values that are shown to nobody, whatever the name is: `postgres://ann:password@db`."""

_SECRET_OPTION = re.compile(
    r"--?(?:[\w-]*[-_])?(?:pass(?:word|wd|phrase)?|secret|credentials?|api[-_]?key|(?:auth|access|hub|hf)[-_]token|token)",
    re.IGNORECASE,
)
"""Options of the user's script whose values are shown to nobody. Not `--tokenizer`, `--max-tokens`, `--key`."""

_OPEN = (
    *("TORCH_", "PYTORCH_", "TORCHINDUCTOR_", "TORCHDYNAMO_", "TORCHELASTIC_", "CUBLAS_", "CUDNN_", "CUDA_", "NVIDIA_"),
    *("NVTE_", "NCCL_", "GLOO_", "TP_", "UCX_", "UCC_", "FI_", "RCCL_", "HIP_", "HSA_", "ROCM_", "MIOPEN_", "IBV_"),
    *("OMP_", "MKL_", "KMP_", "GOMP_", "OPENBLAS_", "NUMEXPR_", "TRITON_", "XLA_", "PJRT_", "TOKENIZERS_", "DS_"),
    *("TRANSFORMERS_", "DATASETS_", "ACCELERATE_", "DEEPSPEED_", "SLURM_", "OMPI_", "PMI", "MUSTER_", "PET_", "LC_"),
    *("HF_HOME", "HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE", "PYTHON", "ROCR_VISIBLE_DEVICES", "TENSORBOARD_"),
)
_OPEN_NAMES = {
    *("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "GROUP_RANK", "GROUP_WORLD_SIZE", "NODE_RANK", "NNODES"),
    *("ROLE_RANK", "ROLE_NAME", "ROLE_WORLD_SIZE", "NPROC_PER_NODE", "MASTER_ADDR", "MASTER_PORT"),
    *(
        "LANG",
        "TZ",
        "LD_LIBRARY_PATH",
        "LD_PRELOAD",
        "LIBRARY_PATH",
        "VIRTUAL_ENV",
        "CONDA_PREFIX",
        "CONDA_DEFAULT_ENV",
    ),
    *("PATH", "HOME", "USER", "LOGNAME", "SHELL", "PWD", "OLDPWD", "TERM", "HOSTNAME", "TMPDIR", "DISPLAY"),
    *("NO_COLOR", "FORCE_COLOR", "CURL_CA_BUNDLE", "REQUESTS_CA_BUNDLE", "SSL_CERT_FILE", "SSL_CERT_DIR"),
}
"""Variables that are settings, by how they begin and by name: their values may stand in files and reports."""

_FULL = {"MUSTER_ENV", "PET_ENV", "MUSTER_SETUP", "PET_SETUP"}
"""Settings of muster that hold other variables with their values, or lines for a shell."""

REDACTED = "(hidden)"

_VALUE = r"""(?P<value>(?:"(?:[^"\\]|\\.)*"|'[^']*'|[^\s;&|"'])+)"""
_ASSIGNED = re.compile(r"(?P<name>\b[A-Za-z_]\w*)=" + _VALUE)
_OPTION = re.compile(r"(?P<option>(?<!\S)--?[A-Za-z][\w-]*)(?P<between>[\s=]+)" + _VALUE)
"""`NAME=value` and `--name value` in a line for a shell."""


def is_forwarded(name: str) -> bool:
    """This variable goes to the hosts without being named."""
    if name in LOCAL_ONLY or name.startswith(NEVER_FORWARDED):
        return False
    return name in NAMES or name.startswith(PREFIXES)


def forwarded(env: Mapping[str, str]) -> dict[str, str]:
    """What of this environment goes to the hosts."""
    return {name: value for name, value in sorted(env.items()) if is_forwarded(name)}


def is_secret(name: str, value: str = "") -> bool:
    """The value of this variable is shown to nobody."""
    return _SECRET.search(name) is not None or _SECRET_VALUE.search(value) is not None


def stands_open(name: str, value: str = "") -> bool:
    """The value of this variable may stand in files of the run: it is a known setting, and no secret."""
    return (name in _OPEN_NAMES or name.startswith(_OPEN)) and name not in _FULL and not is_secret(name, value)


def stored(name: str, value: str) -> str:
    """What files of the run hold in the place of a value.

    Of one that is no known setting they hold six digits of its hash, by which two runs can be compared; of a secret
    nothing at all.
    """
    if stands_open(name, value):
        return value
    if is_secret(name, value):
        return REDACTED
    return f"(hidden, sha256 {hashlib.sha256(value.encode(errors='surrogateescape')).hexdigest()[:6]})"


def shown(name: str, value: str) -> str:
    """What the user's own terminal shows of a value: all but secrets."""
    return REDACTED if is_secret(name, value) else value


def redact(value: Any, replace: Callable[[str, str], str] = stored) -> Any:
    """The same with the values of variables as they are `stored`, or `shown`, wherever an `env` stands in it; command
    lines and lines of --setup are without secrets."""
    if isinstance(value, list):
        return [redact(item, replace) for item in value]
    if not isinstance(value, dict):
        return value
    found = {key: redact(item, replace) for key, item in value.items()}
    if isinstance(value.get("env"), dict):
        found["env"] = {
            name: replace(name, text) if isinstance(text, str) else text for name, text in value["env"].items()
        }
    for name in ("argv", "wrap", "launcher_args"):
        if isinstance(value.get(name), list):
            found[name] = redact_argv(value[name])
    if isinstance(value.get("setup"), list):
        found["setup"] = [redact_line(line) for line in value["setup"]]
    return found


def redact_line(line: str) -> str:
    """A line for a shell without the values that it gives to variables, unless they are known settings, and to options
    named password."""

    def option(found: re.Match[str]) -> str:
        return (
            f"{found['option']}{found['between']}{REDACTED}" if _SECRET_OPTION.fullmatch(found["option"]) else found[0]
        )

    line = _SECRET_VALUE.sub(f"://{REDACTED}@", _OPTION.sub(option, line))
    return _ASSIGNED.sub(lambda found: f"{found['name']}={stored(found['name'], found['value'])}", line)


def redact_argv(words: Iterable[Any]) -> list[Any]:
    """A command line, or the JSON of one, without the values of `--env`, unless they are known settings, and of options
    named password."""
    found: list[Any] = []
    before = ""
    for word in words:
        if not isinstance(word, str):  # a value that comes later is none of the user's
            found.append(word)
            before = ""
            continue
        option, equals, value = word.partition("=")
        if before == "--env" or (option == "--env" and equals):
            name, given, text = (value if option == "--env" else word).partition("=")
            shown = f"{name}={stored(name, text)}" if given else name
            found.append(f"--env={shown}" if option == "--env" and before != "--env" else shown)
        elif before == "--setup" or (option == "--setup" and equals):
            found.append(redact_line(word) if before == "--setup" else f"--setup={redact_line(value)}")
        elif _SECRET_OPTION.fullmatch(before) and not word.startswith("-"):
            found.append(REDACTED)
        elif equals and (_SECRET_OPTION.fullmatch(option) or (option.isupper() and is_secret(option))):
            found.append(f"{option}={REDACTED}")
        else:
            found.append(_SECRET_VALUE.sub(f"://{REDACTED}@", word))
        before = word
    return found


def select(items: Iterable[str], env: Mapping[str, str]) -> dict[str, str]:
    """What `--env` names: NAME=VALUE, NAME as it is here, or PREFIX*; raises `InvalidRequest`."""
    found: dict[str, str] = {}
    for item in items:
        name, equals, value = item.partition("=")
        if equals:
            found[name] = value
        elif name.endswith("*"):
            found.update({other: value for other, value in env.items() if other.startswith(name[:-1])})
        elif name in env:
            found[name] = env[name]
        else:
            raise InvalidRequest(
                f"--env {name}: there is no such variable here", f"give its value: `--env {name}=VALUE`"
            )
    return found
