"""Rules about Python scripts that are started as ranks."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

from muster.lint.model import Source, Span
from muster.lint.python import parsed
from muster.lint.rule import ERROR, NOTE, PYTHON, WARNING, Finding, Rule

_RANK = re.compile(
    r"(?:(?:local|global|node|group|world|ddp|dist|process|machine|proc|my|self)_?)?rank(?:_id)?|rank_?id",
    re.IGNORECASE,
)
_PORTS = frozenset({"29500", "12345", "12355", "29400", "23456", "1234", "12346"})


class PythonFile:
    """A Python script with its syntax tree."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self.error: tuple[int, str] | None = None
        """The line and the message of a syntax error."""
        try:
            self.tree: ast.Module | None = parsed(source.text)
        except SyntaxError as error:
            self.tree, self.error = None, (error.lineno or 1, error.msg)
        except ValueError:  # null bytes
            self.tree, self.error = None, (1, "it contains null bytes")
        except (RecursionError, MemoryError):
            self.tree, self.error = None, (1, "it is nested too deeply")
        self.nodes = list(ast.walk(self.tree)) if self.tree is not None else []

    def span(self, node: ast.expr) -> Span:
        """Where a node stands."""
        end_line, end_column = node.end_lineno or node.lineno, node.end_col_offset or node.col_offset
        return Span(self._offset(node.lineno, node.col_offset), self._offset(end_line, end_column))

    def _offset(self, line: int, column: int) -> int:
        """The offset of a place that counts bytes of UTF-8, as ast does."""
        text = self.source.line(line).encode()
        return self.source.start_of(line) + len(text[:column].decode(errors="replace"))


def _name(node: ast.expr) -> str:
    if isinstance(node, ast.Name):
        return node.id
    return node.attr if isinstance(node, ast.Attribute) else ""


def _is_environment(node: ast.expr) -> bool:
    """`os.environ.get("X")`, `os.getenv("X")`, `os.environ["X"]`: text, for which "0" is true."""
    if isinstance(node, ast.Call):
        return "environ" in ast.dump(node.func) or _name(node.func) == "getenv"
    return isinstance(node, ast.Subscript) and "environ" in ast.dump(node.value)


def rank_or_default(file: PythonFile) -> Iterator[Finding]:
    """`rank or default`, which is the default for rank 0."""
    texts = {
        _name(target)
        for node in file.nodes
        if isinstance(node, ast.Assign) and _is_environment(node.value)
        for target in node.targets
    }
    tests = {
        id(inner)
        for node in file.nodes
        if isinstance(node, (ast.If, ast.While, ast.Assert, ast.IfExp))
        for inner in ast.walk(node.test)
    }
    for node in file.nodes:
        if not isinstance(node, ast.BoolOp) or not isinstance(node.op, ast.Or) or id(node) in tests:
            continue
        first, last = node.values[0], node.values[-1]
        number = isinstance(first, ast.Call) and _name(first.func) == "int" and "RANK" in ast.dump(first).upper()
        ranked = _RANK.fullmatch(_name(first)) and _name(first) not in texts
        compared = isinstance(last, (ast.Compare, ast.BoolOp)) or (
            isinstance(last, ast.UnaryOp) and isinstance(last.op, ast.Not)
        )
        if (number or ranked) and not compared and not (isinstance(last, ast.Constant) and last.value in (0, "0")):
            yield Finding(file.span(node), f"`{ast.unparse(node)}` is the default for rank 0, too: 0 is false")


def rank_if_true(file: PythonFile) -> Iterator[Finding]:
    """`rank if rank else default`, which is the default for rank 0."""
    for node in file.nodes:
        if not isinstance(node, ast.IfExp) or not _RANK.fullmatch(_name(node.test)):
            continue
        zero = isinstance(node.orelse, ast.Constant) and node.orelse.value in (0, "0")
        if _name(node.body) == _name(node.test) and not zero:
            yield Finding(file.span(node), f"`{ast.unparse(node)}` is the default for rank 0, too: 0 is false")


def local_rank_option(file: PythonFile) -> Iterator[Finding]:
    """`--local_rank` of argparse in a script that does not read LOCAL_RANK."""
    if "LOCAL_RANK" in file.source.text or "deepspeed" in file.source.text.lower():
        return
    for node in file.nodes:
        if isinstance(node, ast.Call) and _name(node.func) == "add_argument" and node.args:
            first = node.args[0]
            if isinstance(first, ast.Constant) and first.value in ("--local_rank", "--local-rank"):
                yield Finding(
                    file.span(first),
                    f"torchrun does not pass {first.value}: it sets LOCAL_RANK, which this script does not read",
                )


def _environment_settings(file: PythonFile) -> Iterator[tuple[str, ast.expr]]:
    """The variables of the environment that a script sets, whatever they were before, with their values."""
    guarded = {
        id(inner)
        for node in file.nodes
        if isinstance(node, ast.If) and "environ" in ast.dump(node.test)
        for statement in (*node.body, *node.orelse)
        for inner in ast.walk(statement)
    }
    for node in file.nodes:
        if isinstance(node, ast.Assign) and id(node) not in guarded:
            for target in node.targets:
                if isinstance(target, ast.Subscript) and "environ" in ast.dump(target.value):
                    key = target.slice
                    if isinstance(key, ast.Constant) and isinstance(key.value, str):
                        yield key.value, node.value
        elif isinstance(node, ast.Call) and id(node) not in guarded:
            yield from _updates(node)


def _updates(call: ast.Call) -> Iterator[tuple[str, ast.expr]]:
    """The variables that `os.environ.update(…)` sets."""
    function = call.func
    if (
        not isinstance(function, ast.Attribute)
        or function.attr != "update"
        or "environ" not in ast.dump(function.value)
    ):
        return
    for item in call.keywords:
        if item.arg:
            yield item.arg, item.value
    for given in call.args:
        for name, value in zip(given.keys, given.values) if isinstance(given, ast.Dict) else ():
            if isinstance(name, ast.Constant):
                yield str(name.value), value


def port_in_script(file: PythonFile) -> Iterator[Finding]:
    """A fixed MASTER_PORT in a Python script."""
    for name, value in _environment_settings(file):
        text = str(value.value) if isinstance(value, ast.Constant) else ""
        if name == "MASTER_PORT" and text in _PORTS:
            yield Finding(
                file.span(value), f"port {text} is the same for all jobs, and replaces the one of the launcher"
            )
    for node in file.nodes:
        for item in node.keywords if isinstance(node, ast.Call) else ():
            value = item.value
            text = str(value.value) if isinstance(value, ast.Constant) else ""
            match = re.fullmatch(r"tcp://[^:/]+:(\d+)", text) if item.arg == "init_method" else None
            if match and match[1] in _PORTS:
                yield Finding(file.span(value), f"port {match[1]} is the same for all jobs")


def address_in_script(file: PythonFile) -> Iterator[Finding]:
    """MASTER_ADDR from the login node."""
    for name, value in _environment_settings(file):
        if name == "MASTER_ADDR" and "SLURM_SUBMIT_HOST" in ast.dump(value):
            yield Finding(file.span(value), "SLURM_SUBMIT_HOST is the host where sbatch was typed; no rank runs there")


def debug_in_script(file: PythonFile) -> Iterator[Finding]:
    """Debugging variables that a Python script sets."""
    wrong = {"TORCH_DISTRIBUTED_DEBUG": ("DETAIL",), "NCCL_DEBUG": ("INFO", "TRACE"), "CUDA_LAUNCH_BLOCKING": ("1",)}
    for name, value in _environment_settings(file):
        text = str(value.value) if isinstance(value, ast.Constant) else ""
        if text in wrong.get(name, ()):
            yield Finding(file.span(value), f"{name}={text} was left over from debugging")


def transport_in_script(file: PythonFile) -> Iterator[Finding]:
    """NCCL without NVLink or InfiniBand, by a Python script."""
    for name, value in _environment_settings(file):
        text = str(value.value) if isinstance(value, ast.Constant) else ""
        if name in ("NCCL_P2P_DISABLE", "NCCL_IB_DISABLE", "NCCL_SHM_DISABLE") and text == "1":
            yield Finding(file.span(value), f"{name}=1 makes NCCL work without its fastest transport")


RULES = (
    Rule(
        "rank-if-true",
        ERROR,
        PYTHON,
        rank_if_true,
        "`rank if rank else default`",
        "0 is false in Python, so that rank 0 takes the default.",
        "Write `default if rank is None else rank`.",
        "device = local_rank if local_rank else -1\n",
        "device = -1 if local_rank is None else local_rank\n",
    ),
    Rule(
        "rank-or-default",
        ERROR,
        PYTHON,
        rank_or_default,
        "`rank or default`",
        "0 is false in Python, so that rank 0 takes the default: the wrong GPU, or -1.",
        "Write `default if rank is None else rank`.",
        "import torch\n\nlocal_rank = args.local_rank or rank % torch.cuda.device_count()\n",
        "import torch\n\nlocal_rank = rank % torch.cuda.device_count() if args.local_rank is None else "
        "args.local_rank\n",
    ),
    Rule(
        "local-rank-option",
        WARNING,
        PYTHON,
        local_rank_option,
        "a `--local_rank` argument in a script that does not read LOCAL_RANK",
        "Only the deprecated torch.distributed.launch passes it. With torchrun all ranks have its default and share "
        "a GPU.",
        'Read `int(os.environ["LOCAL_RANK"])`.',
        'import argparse\n\nparser = argparse.ArgumentParser()\nparser.add_argument("--local_rank", type=int, '
        "default=0)\n",
        'import os\n\nlocal_rank = int(os.environ["LOCAL_RANK"])\n',
    ),
    Rule(
        "python-fixed-port",
        WARNING,
        PYTHON,
        port_in_script,
        "a fixed MASTER_PORT in a Python script",
        "It replaces the port of the launcher, and two jobs on one node want the same: `Address already in use`.",
        'Leave it to the launcher, or write `os.environ.setdefault("MASTER_PORT", …)`.',
        'import os\n\nos.environ["MASTER_PORT"] = "29500"\n',
        'import os\n\nos.environ.setdefault("MASTER_PORT", "29500")\n',
    ),
    Rule(
        "python-submit-host",
        ERROR,
        PYTHON,
        address_in_script,
        "MASTER_ADDR from SLURM_SUBMIT_HOST",
        "It is the host where sbatch was typed, usually a login node. No rank listens there.",
        "Set MASTER_ADDR in the batch script, to the first node of the job.",
        'import os\n\nos.environ["MASTER_ADDR"] = os.environ["SLURM_SUBMIT_HOST"]\n',
        'import os\n\nos.environ["MASTER_ADDR"] = os.environ["SLURM_LAUNCH_NODE_IPADDR"]\n',
    ),
    Rule(
        "python-debug-variable",
        NOTE,
        PYTHON,
        debug_in_script,
        "debugging variables that a script sets for itself",
        "They slow each run down, or write thousands of lines.",
        "Delete the line, and set the variable in the shell for a run that is examined.",
        'import os\n\nos.environ["NCCL_DEBUG"] = "INFO"\n',
        'import os\n\nos.environ["NCCL_DEBUG"] = "WARN"\n',
    ),
    Rule(
        "python-transport-disabled",
        WARNING,
        PYTHON,
        transport_in_script,
        "NCCL transports that a script turns off",
        "NCCL works without NVLink or InfiniBand, many times slower, on every cluster.",
        "Delete the line.",
        'import os\n\nos.environ["NCCL_P2P_DISABLE"] = "1"\n',
        'import os\n\nos.environ["NCCL_P2P_DISABLE"] = "0"\n',
    ),
)
