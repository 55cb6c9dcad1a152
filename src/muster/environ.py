"""Which variables go from this machine to the ranks on other hosts. Touches nothing.

On this machine ranks inherit everything. Over ssh nothing comes along by itself, and people lose an afternoon over one
variable; so what is about training goes by default, and the rest by `--env`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from muster.errors import Impossible

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

STAY = ("CUDA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES", "NVIDIA_VISIBLE_DEVICES")
"""These are about this machine alone, and never go by themselves."""

OWN = ("TORCHELASTIC_", "MUSTER_", "PET_", "PYTHONDONTWRITEBYTECODE", "PYTHONSTARTUP", "PYTHONHOME", "PYTHONINSPECT")
"""Nor do these: of a launcher, or of the person's own Python here."""

_SECRET = ("TOKEN", "KEY", "SECRET", "PASSWORD", "PASSWD", "CREDENTIAL", "AUTH")


def goes(name: str) -> bool:
    """This variable goes to the hosts without being named."""
    if name in STAY or name.startswith(OWN):
        return False
    return name in NAMES or name.startswith(PREFIXES)


def forwarded(env: Mapping[str, str]) -> dict[str, str]:
    """What of this environment goes to the hosts."""
    return {name: value for name, value in sorted(env.items()) if goes(name)}


def is_secret(name: str) -> bool:
    """Its value is shown to nobody."""
    return any(word in name.upper() for word in _SECRET)


def hidden(value: Any) -> Any:
    """The same with the values of secret variables hidden, wherever an `env` stands in it."""
    if isinstance(value, list):
        return [hidden(item) for item in value]
    if not isinstance(value, dict):
        return value
    found = {key: hidden(item) for key, item in value.items()}
    if isinstance(value.get("env"), dict):
        found["env"] = {name: "(hidden)" if is_secret(name) else text for name, text in value["env"].items()}
    return found


def hidden_words(words: Iterable[str]) -> list[str]:
    """A command line with the values of secret variables hidden: `--env API_KEY=…`."""

    def one(word: str) -> str:
        option, named, rest = word.rpartition("--env=") if word.startswith("--env=") else ("", "", word)
        name, equals, _ = rest.partition("=")
        known = equals and name.replace("_", "").isalnum() and name == name.upper() and is_secret(name)
        return f"{option}{named}{name}=(hidden)" if known else word

    return [one(word) for word in words]


def chosen(items: Iterable[str], env: Mapping[str, str]) -> dict[str, str]:
    """What `--env` names: NAME=VALUE, NAME as it is here, or PREFIX*; raises `Impossible`."""
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
            raise Impossible(f"--env {name}: there is no such variable here", f"give its value: `--env {name}=VALUE`")
    return found
