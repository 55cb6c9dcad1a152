"""Which variables are forwarded to other hosts, and whose values are shown."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from muster.core import env_forwarding
from muster.core.env_forwarding import (
    forwarded,
    is_forwarded,
    is_secret,
    redact,
    redact_argv,
    select,
    shown,
    stored,
)
from muster.errors import InvalidRequest

GO = """TORCH_LOGS PYTORCH_CUDA_ALLOC_CONF NCCL_DEBUG GLOO_SOCKET_IFNAME UCX_TLS FI_PROVIDER RCCL_X HIP_X HSA_X
OMP_NUM_THREADS MKL_NUM_THREADS KMP_AFFINITY TRITON_CACHE_DIR HF_HOME TRANSFORMERS_OFFLINE WANDB_MODE
MLFLOW_TRACKING_URI LANG LC_ALL PYTHONPATH LD_LIBRARY_PATH VIRTUAL_ENV CONDA_PREFIX https_proxy NO_PROXY SSL_CERT_FILE
CUDA_LAUNCH_BLOCKING PYTHONFAULTHANDLER"""

STAY = """TORCHELASTIC_RUN_ID CUDA_VISIBLE_DEVICES HIP_VISIBLE_DEVICES ROCR_VISIBLE_DEVICES PET_NNODES MUSTER_HOME PATH
HOME USER SHELL PWD SSH_AUTH_SOCK DISPLAY TMPDIR RANK WORLD_SIZE MASTER_ADDR SLURM_JOB_ID EDITOR PYTHONHOME
PYTHONDONTWRITEBYTECODE"""


@pytest.mark.parametrize("name", GO.split())
def test_what_is_about_training_goes(name: str) -> None:
    assert is_forwarded(name)
    assert {name: "x"} == forwarded({name: "x", "PATH": "/bin"})


@pytest.mark.parametrize("name", STAY.split())
def test_what_is_about_this_machine_stays(name: str) -> None:
    assert not is_forwarded(name)


SECRETS = """HF_TOKEN WANDB_API_KEY AWS_SECRET_ACCESS_KEY DB_PASSWORD my_passwd PGPASSWORD MYSQL_PASS SSH_PASSPHRASE
DB_PWD GIT_CREDENTIALS HTTP_AUTH SESSION_COOKIE SENTRY_DSN AZURE_SAS AUTH_JWT APIKEY SSH_PRIVATE_KEY
TORCH_TOKEN RAY_AUTH_TOKEN"""


@pytest.mark.parametrize("name", SECRETS.split())
def test_secrets(name: str) -> None:
    assert is_secret(name)
    assert "(hidden)" == stored(name, "x") == shown(name, "x")


@pytest.mark.parametrize(
    "name", ["HF_HOME", "NCCL_DEBUG", "PATH", "PWD", "TOKENIZERS_PARALLELISM", "KEYBOARD", "AUTHOR"]
)
def test_no_secrets(name: str) -> None:
    assert not is_secret(name)


def test_files_hold_values_of_known_settings_alone() -> None:
    assert "1" == stored("OMP_NUM_THREADS", "1")
    first, other = stored("MY_LICENCE", "abc"), stored("MY_LICENCE", "abd")
    assert re.fullmatch(r"\(hidden, sha256 [0-9a-f]{6}\)", first) and first != other == stored("MY_LICENCE", "abd")
    assert "(hidden)" == stored("NCCL_X", "http://ann:word@proxy"), "whatever the name is"
    plan = {"commands": [{"env": {"MY_LICENCE": "abc", "RANK": "0"}}], "job": {"env": {"A_PASS": "x"}}}
    assert {
        "commands": [{"env": {"MY_LICENCE": first, "RANK": "0"}}],
        "job": {"env": {"A_PASS": "(hidden)"}},
    } == redact(plan)
    assert {"MY_LICENCE": "abc", "A_PASS": "(hidden)"} == redact({"env": {"MY_LICENCE": "abc", "A_PASS": "x"}}, shown)[
        "env"
    ]


@pytest.mark.parametrize(
    ("typed", "kept"),
    [
        ("--env NCCL_DEBUG=INFO --env B train.py", "--env NCCL_DEBUG=INFO --env B train.py"),
        ("--env=A_KEY=x=y train.py", "--env=A_KEY=(hidden) train.py"),
        ("--env A_KEY=x train.py", "--env A_KEY=(hidden) train.py"),
        ("train.py --password x --lr 1", "train.py --password (hidden) --lr 1"),
        ("train.py --api-key=x --db_password=y", "train.py --api-key=(hidden) --db_password=(hidden)"),
        ("train.py --hf-token x --token y", "train.py --hf-token (hidden) --token (hidden)"),
        ("train.py --tokenizer gpt2 --max-tokens 100", "train.py --tokenizer gpt2 --max-tokens 100"),
        ("env DB_PASS=x train", "env DB_PASS=(hidden) train"),
        ("train.py postgres://ann:word@db/x", "train.py postgres://(hidden)@db/x"),
        ("train.py postgres://ann@db/x --password --lr", "train.py postgres://ann@db/x --password --lr"),
    ],
)
def test_words_of_a_command_line(typed: str, kept: str) -> None:
    assert kept.split() == " ".join(redact_argv(typed.split())).split()


ENV = {"MY_A": "1", "MY_B": "2", "OTHER": "3", "EMPTY": ""}


@pytest.mark.parametrize(
    ("items", "expected"),
    [
        (["OTHER"], {"OTHER": "3"}),
        (["NEW=x=y"], {"NEW": "x=y"}),
        (["MY_*"], {"MY_A": "1", "MY_B": "2"}),
        (["MY_*", "MY_A=9"], {"MY_A": "9", "MY_B": "2"}),
        (["EMPTY", "BLANK="], {"EMPTY": "", "BLANK": ""}),
        (["NOTHING_*"], {}),
    ],
)
def test_what_is_named(items: list[str], expected: dict[str, str]) -> None:
    assert expected == select(items, ENV)


def test_a_name_that_does_not_exist() -> None:
    with pytest.raises(InvalidRequest, match="--env ABSENT: environment variable not set here"):
        select(["ABSENT"], ENV)


@pytest.mark.parametrize(
    ("line", "gone"),
    [
        ("export ANY='geheim1 geheim2'; module load cuda", "geheim"),
        ("curl --password geheim1 x", "geheim1"),
        ("curl --api-key=geheim1 x", "geheim1"),
        ("git clone https://me:geheim1@host/x", "geheim1"),
    ],
)
def test_a_line_of_setup_is_recorded_without_its_secrets(line: str, gone: str) -> None:
    for words in (["--setup", line], [f"--setup={line}"]):
        assert gone not in " ".join(redact_argv(words))
        assert "(hidden" in " ".join(redact_argv(words))
    found = redact({"job": {"setup": [line], "program": {"argv": ["x.py", "--token", "geheim1"]}}})
    assert "geheim" not in str(found)


def test_what_is_no_secret_in_a_line_of_setup_stays() -> None:
    line = "module load cuda/12 && export OMP_NUM_THREADS=2 PATH=/x:$PATH && ulimit -n 4096"
    assert ["--setup", line] == redact_argv(["--setup", line])


def test_settings_that_hold_other_variables_are_not_open() -> None:
    assert "geheim" not in stored("MUSTER_ENV", "ANY=geheim")


def test_what_is_a_secret_is_decided_in_one_place() -> None:
    """Patterns of secret names, options and values are in `core/env_forwarding.py` alone."""
    pattern = re.compile(r"re\.compile\([^)]*(?:passw|secret|api.?key|credential)", re.IGNORECASE | re.DOTALL)
    source = Path(env_forwarding.__file__).parents[1]
    assert ["env_forwarding.py"] == [path.name for path in source.rglob("*.py") if pattern.search(path.read_text())]
