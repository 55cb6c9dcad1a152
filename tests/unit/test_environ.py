"""Which variables go to other hosts, and whose values are shown."""

from __future__ import annotations

import pytest

from muster.environ import chosen, forwarded, goes, is_secret
from muster.errors import Impossible

GO = """TORCH_LOGS PYTORCH_CUDA_ALLOC_CONF NCCL_DEBUG GLOO_SOCKET_IFNAME UCX_TLS FI_PROVIDER RCCL_X HIP_X HSA_X
OMP_NUM_THREADS MKL_NUM_THREADS KMP_AFFINITY TRITON_CACHE_DIR HF_HOME TRANSFORMERS_OFFLINE WANDB_MODE
MLFLOW_TRACKING_URI LANG LC_ALL PYTHONPATH LD_LIBRARY_PATH VIRTUAL_ENV CONDA_PREFIX https_proxy NO_PROXY SSL_CERT_FILE
CUDA_LAUNCH_BLOCKING PYTHONFAULTHANDLER"""

STAY = """TORCHELASTIC_RUN_ID CUDA_VISIBLE_DEVICES HIP_VISIBLE_DEVICES ROCR_VISIBLE_DEVICES PET_NNODES MUSTER_HOME PATH
HOME USER SHELL PWD SSH_AUTH_SOCK DISPLAY TMPDIR RANK WORLD_SIZE MASTER_ADDR SLURM_JOB_ID EDITOR PYTHONHOME
PYTHONDONTWRITEBYTECODE"""


@pytest.mark.parametrize("name", GO.split())
def test_what_is_about_training_goes(name: str) -> None:
    assert goes(name)
    assert {name: "x"} == forwarded({name: "x", "PATH": "/bin"})


@pytest.mark.parametrize("name", STAY.split())
def test_what_is_about_this_machine_stays(name: str) -> None:
    assert not goes(name)


@pytest.mark.parametrize("name", ["HF_TOKEN", "WANDB_API_KEY", "AWS_SECRET_ACCESS_KEY", "DB_PASSWORD", "my_passwd"])
def test_secrets(name: str) -> None:
    assert is_secret(name)


@pytest.mark.parametrize("name", ["HF_HOME", "NCCL_DEBUG", "PATH"])
def test_no_secrets(name: str) -> None:
    assert not is_secret(name)


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
    assert expected == chosen(items, ENV)


def test_a_name_that_is_not_there() -> None:
    with pytest.raises(Impossible, match="--env ABSENT: there is no such variable here"):
        chosen(["ABSENT"], ENV)
