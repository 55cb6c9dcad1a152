"""A command line of torchrun works with `muster run`: every option of the installed torchrun is known."""

from __future__ import annotations

import ast
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import pytest

from muster.config.options import RUN
from muster.config.parse import parse
from muster.errors import InvalidRequest


class Known(NamedTuple):
    """An option of torchrun."""

    names: tuple[str, ...]
    flag: bool
    """True if it takes no value."""


def torchruns() -> list[Known]:
    """The arguments of its parser, read from its source: importing torch takes two seconds."""
    spec = find_spec("torch")
    if spec is None or spec.origin is None:
        return []
    source = (Path(spec.origin).parent / "distributed" / "run.py").read_text()
    found = []
    for call in ast.walk(ast.parse(source)):
        if isinstance(call, ast.Call) and getattr(call.func, "attr", "") == "add_argument":
            names = [str(word.value) for word in call.args if isinstance(word, ast.Constant)]
            actions = [ast.unparse(word.value) for word in call.keywords if word.arg == "action"]
            if names[0].startswith("-"):
                found.append(Known(tuple(names), actions in (["check_env"], ["'store_true'"])))
    return found


OPTIONS = torchruns()
pytestmark = pytest.mark.skipif(not OPTIONS, reason="torch is not installed")


def test_torchruns_options_were_found() -> None:
    """The best known options are among them."""
    names = {name for option in OPTIONS for name in option.names}
    assert {"--nnodes", "--nproc-per-node", "--standalone", "-m", "--max-restarts"} <= names
    assert len(OPTIONS) > 20


@pytest.mark.parametrize("option", OPTIONS, ids=lambda option: option.names[0])
def test_every_option_of_torchrun_is_known(option: Known) -> None:
    """Under all its names; with a value if torchrun requires one, otherwise without."""
    ours = {name: known for known in RUN for name in known.names}
    for name in option.names:
        plain = name.replace("_", "-") if name.startswith("--") else name
        assert plain in ours, f"muster run has no {name}"
        assert option.flag == (not ours[plain].metavar), f"{name} takes a value in one of the two only"


@pytest.mark.parametrize("option", OPTIONS, ids=lambda option: option.names[0])
def test_its_variable_is_read(option: Known) -> None:
    """PET_ and its name, as torchrun reads it."""
    name = max(option.names, key=len).lstrip("-").replace("-", "_").upper()
    assert f"PET_{name}" in {variable for known in RUN for variable in known.variables}


def test_prefixes_of_options_expand_as_in_torchrun() -> None:
    """If it is a prefix of only one option of torchrun, whatever options muster adds; otherwise both are named."""
    fulls = {max(option.names, key=len).replace("_", "-") for option in OPTIONS}
    keys = {name: known.key for known in RUN for name in known.names}
    values = {"--nproc-per-node": "2", "--nnodes": "1", "--redirects": "3", "--signals-to-handle": "SIGINT"}
    for full in fulls:
        for length in range(3, len(full)):
            begin = full[:length]
            fitting = [other for other in fulls if other.startswith(begin)]
            words = [
                begin,
                *([] if next(o for o in OPTIONS if full in o.names).flag else [values.get(full, "1")]),
                "x.py",
            ]
            if begin in keys or (full == "--numa-binding" and len(fitting) == 1):
                continue
            if len(fitting) == 1:
                assert parse(words, RUN).options.keys() == {keys[full]}, begin
            else:
                with pytest.raises(InvalidRequest, match=f"ambiguous option: {begin} matches .*{fitting[0]}"):
                    parse(words, RUN)


def test_a_line_of_torchrun_is_read() -> None:
    """As in many scripts."""
    line = "--standalone --nnodes=1 --nproc_per_node=4 --rdzv_id=7 --rdzv_backend=c10d --max_restarts=3 --tee 3"
    parsed = parse([*line.split(), "-m", "pkg.train", "--tee", "x"], RUN)
    assert parsed.operands == ["pkg.train", "--tee", "x"]
    assert (parsed.options["nproc_per_node"], parsed.options["max_restarts"], parsed.options["module"]) == (
        "4",
        3,
        True,
    )


def test_an_unknown_option_of_any_program_is_rejected() -> None:
    with pytest.raises(InvalidRequest, match="unknown option: --frobnicate"):
        parse(["--frobnicate", "train.py"], RUN)
