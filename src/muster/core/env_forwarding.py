"""Which environment variables are forwarded to ranks on other hosts. Pure.

On this machine ranks inherit everything. ssh forwards nothing by itself, and a missing variable can cost a user an
afternoon; so variables that concern training are forwarded by default, and others with `--env`.
"""

from __future__ import annotations

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
"""Prefixes of forwarded variables."""

NAMES = (
    *("LANG", "TZ", "PYTHONPATH", "LD_LIBRARY_PATH", "LD_PRELOAD", "LIBRARY_PATH", "VIRTUAL_ENV", "CONDA_PREFIX"),
    *("CONDA_DEFAULT_ENV", "CURL_CA_BUNDLE", "REQUESTS_CA_BUNDLE", "NO_COLOR", "FORCE_COLOR"),
    *("HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "no_proxy", "all_proxy"),
)
"""Names of forwarded variables."""

LOCAL_ONLY = ("CUDA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES", "NVIDIA_VISIBLE_DEVICES")
"""Variables that concern only this machine, and are never forwarded by default."""

NEVER_FORWARDED = (
    "TORCHELASTIC_",
    "MUSTER_",
    "PET_",
    "PYTHONDONTWRITEBYTECODE",
    "PYTHONSTARTUP",
    "PYTHONHOME",
    "PYTHONINSPECT",
)
"""Variables of launchers, or of the user's Python here, which are never forwarded by default either."""

_SECRET = re.compile(
    r"PASS|SECRET|CREDENTIAL|APIKEY|TOKEN(?!IZ)|PRIVATE"  # anywhere in the name: PGPASSWORD, HF_TOKEN
    r"|(?:^|_)(?:KEYS?|CREDS?|AUTH(?:ORIZATION)?|COOKIES?|DSN|JWT|SAS|PW)(?:_|$)|_PWD(?:_|$)",
    re.IGNORECASE,
)
"""Pattern of names of variables whose values are never shown."""

_SECRET_VALUE = re.compile(r"://[^/@\s:]+:[^/@\s]+@")
"""Pattern of values that are never shown, whatever the name: `postgres://ann:password@db`."""

_SECRET_OPTION = re.compile(
    r"--?(?:[\w-]*[-_])?(?:pass(?:word|wd|phrase)?|secret|credentials?|api[-_]?key|(?:auth|access|hub|hf)[-_]token|token)",
    re.IGNORECASE,
)
"""Options of the user's script whose values are never shown. Not `--tokenizer`, `--max-tokens`, `--key`."""

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
"""Variables that are settings, by prefix and by name: their values may appear in files and reports."""

_FULL = {"MUSTER_ENV", "PET_ENV", "MUSTER_SETUP", "PET_SETUP"}
"""Settings of muster that contain other variables with values, or shell lines."""

REDACTED = "(hidden)"

_VALUE = r"""(?P<value>(?:"(?:[^"\\]|\\.)*"|'[^']*'|[^\s;&|"'])+)"""
_ASSIGNED = re.compile(r"(?P<name>\b[A-Za-z_]\w*)=" + _VALUE)
_OPTION = re.compile(r"(?P<option>(?<!\S)--?[A-Za-z][\w-]*)(?P<between>[\s=]+)" + _VALUE)
"""Patterns of `NAME=value` and `--name value` in a shell line."""


def is_forwarded(name: str) -> bool:
    """Return whether this variable is forwarded by default."""
    if name in LOCAL_ONLY or name.startswith(NEVER_FORWARDED):
        return False
    return name in NAMES or name.startswith(PREFIXES)


def forwarded(env: Mapping[str, str]) -> dict[str, str]:
    """Return the variables that are forwarded by default."""
    return {name: value for name, value in sorted(env.items()) if is_forwarded(name)}


def is_secret(name: str, value: str = "") -> bool:
    """Return whether the value of this variable must never be shown."""
    return _SECRET.search(name) is not None or _SECRET_VALUE.search(value) is not None


def stands_open(name: str, value: str = "") -> bool:
    """Return whether the value may appear in files of the run: it is a known setting, and no secret."""
    return (name in _OPEN_NAMES or name.startswith(_OPEN)) and name not in _FULL and not is_secret(name, value)


def stored(name: str, value: str) -> str:
    """Return the representation of a value in files of the run.

    For an unknown setting it includes six digits of the value's hash, to compare two runs; for a secret it reveals
    nothing.
    """
    if stands_open(name, value):
        return value
    if is_secret(name, value):
        return REDACTED
    from hashlib import sha256  # loads OpenSSL, which most commands do not need

    return f"(hidden, sha256 {sha256(value.encode(errors='surrogateescape')).hexdigest()[:6]})"


def is_hidden(text: str) -> bool:
    """Return whether a stored value, or a stored line with one, lacks what it was."""
    return REDACTED in text or "(hidden, sha256 " in text


def shown(name: str, value: str) -> str:
    """Return the representation of a value on the user's terminal: everything except secrets."""
    return REDACTED if is_secret(name, value) else value


def redact(value: Any, replace: Callable[[str, str], str] = stored) -> Any:
    """Return a copy with values in `env` objects replaced by `replace`, and command and setup lines redacted."""
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
    """Return a shell line without the values of variables that are not known settings, and of password options."""

    def option(found: re.Match[str]) -> str:
        return (
            f"{found['option']}{found['between']}{REDACTED}" if _SECRET_OPTION.fullmatch(found["option"]) else found[0]
        )

    line = _SECRET_VALUE.sub(f"://{REDACTED}@", _OPTION.sub(option, line))
    return _ASSIGNED.sub(lambda found: f"{found['name']}={stored(found['name'], found['value'])}", line)


def redact_argv(words: Iterable[Any]) -> list[Any]:
    """Return a command line without unknown `--env` values and password options; the items may be JSON."""
    found: list[Any] = []
    before = ""
    for word in words:
        if not isinstance(word, str):  # a late value is never the user's own
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


_TOKEN = re.compile(
    r"(?<![\w-])(?:hf_[A-Za-z0-9]{20,}|gh[pousr]_[A-Za-z0-9]{20,}|github_pat_\w{20,}|glpat-[\w-]{20,}|sk-[\w-]{20,}"
    r"|xox[abprs]-[\w-]{10,}|AKIA[0-9A-Z]{16}|eyJ[\w-]{8,}\.[\w-]{8,}\.[\w-]{8,})"
)
"""Pattern of tokens that are recognized by their form, such as those of Hugging Face, GitHub, AWS, and JWT."""
_SHORTEST = 8
"""Minimum length of the value of a secret variable that is looked for in texts: a shorter one may be any word."""


def secrets_of(env: Mapping[str, str]) -> tuple[str, ...]:
    """Return the values of secret variables that must not appear in a text, the longest first."""
    found = {value for name, value in env.items() if is_secret(name, value) and len(value) >= _SHORTEST}
    return tuple(sorted(found, key=len, reverse=True))


def without_secrets(text: str, values: Iterable[str] = ()) -> str:
    """Return a text of a program without what looks like a secret, and without these values.

    Hides passwords in URLs, values of variables and options with a secret name, and tokens that are known by form.
    """
    for value in values:
        text = text.replace(value, REDACTED)
    text = _TOKEN.sub(REDACTED, _SECRET_VALUE.sub(f"://{REDACTED}@", text))

    def option(found: re.Match[str]) -> str:
        secret = _SECRET_OPTION.fullmatch(found["option"])
        return f"{found['option']}{found['between']}{REDACTED}" if secret else found[0]

    def assigned(found: re.Match[str]) -> str:
        secret = found["name"].isupper() and is_secret(found["name"])
        return f"{found['name']}={REDACTED}" if secret else found[0]

    return _ASSIGNED.sub(assigned, _OPTION.sub(option, text))


_LOGIN = re.compile(r"\blogin\s+(?:-\S+\s+)*([A-Za-z0-9_-]{20,})")
"""Pattern of `wandb login KEY`."""


def secrets_in(text: str) -> tuple[str, ...]:
    """Return the values in a script that must not be shown, the longest first.

    They are tokens that are known by form, and the known values of variables and options with a secret name.
    """
    found = {match[0] for match in _TOKEN.finditer(text)} | {match[1] for match in _LOGIN.finditer(text)}
    for match in _ASSIGNED.finditer(text):
        value = match["value"].strip("\"'")
        if is_secret(match["name"]) and (match["name"].isupper() or len(value) >= 2 * _SHORTEST):
            found.add(value)
    found |= {
        match["value"].strip("\"'") for match in _OPTION.finditer(text) if _SECRET_OPTION.fullmatch(match["option"])
    }
    known = (value for value in found if len(value) >= _SHORTEST and not set(value) & set("$`{}(/"))
    return tuple(sorted(known, key=len, reverse=True))


def select(items: Iterable[str], env: Mapping[str, str]) -> dict[str, str]:
    """Return the variables selected by `--env`: NAME=VALUE, NAME from `env`, or PREFIX*. Raises `InvalidRequest`."""
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
                f"--env {name}: environment variable not set here", f"set its value with `--env {name}=VALUE`"
            )
    return found
