"""Python programs that launch ranks with submitit or Ray: the command that each task runs, and their number. Pure."""

from __future__ import annotations

import ast
import shlex
from collections.abc import Iterator

from muster.adopt.adoption import Adoption, Argument, Launch, Remark
from muster.export._shell import quote

_RANKS = {
    "SLURM_PROCID": "$RANK",
    "SLURM_NTASKS": "$WORLD_SIZE",
    "SLURM_LOCALID": "$LOCAL_RANK",
    "SLURM_NODEID": "$GROUP_RANK",
    "RANK": "$RANK",
    "WORLD_SIZE": "$WORLD_SIZE",
    "LOCAL_RANK": "$LOCAL_RANK",
    "global_rank": "$RANK",
    "num_tasks": "$WORLD_SIZE",
    "local_rank": "$LOCAL_RANK",
    "rank": "$RANK",
    "world_size": "$WORLD_SIZE",
}
_SAME = {
    "name": "name",
    "slurm_job_name": "name",
    "job_name": "name",
    "slurm_partition": "partition",
    "partition": "partition",
    "slurm_account": "account",
    "account": "account",
    "slurm_qos": "qos",
    "qos": "qos",
    "slurm_constraint": "constraint",
    "constraint": "constraint",
    "gpus_per_node": "gpus-per-node",
    "slurm_gpus_per_node": "gpus-per-node",
    "slurm_gres": "gres",
    "gres": "gres",
    "slurm_mem": "mem",
    "mem": "mem",
}


def launcher_of(source: str) -> str:
    """Return `submitit` or `ray`, if the program imports one of them; empty otherwise."""
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError):
        return ""
    names = {
        alias.name.partition(".")[0] for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names
    }
    names |= {(node.module or "").partition(".")[0] for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    return next((name for name in ("submitit", "ray") if name in names), "")


def adopt_python(path: str, source: str) -> Adoption:
    """Return what such a program launches."""
    launcher, tree = launcher_of(source), ast.parse(source)
    found = next(_commands(tree), None)
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
    if found is None:
        line = next((node.lineno for node in calls if _name(node.func).endswith((".submit", ".remote", ".fit"))), 1)
        why = "the ranks call a function and start no program; `muster.submit(function, …)` does that"
        return Adoption(path, (), unknown=(Remark(line, source.splitlines()[line - 1].strip(), why),))
    call, function = found
    meanings = _meanings(tree, function)
    words, unknown = _words(call, meanings)
    launch = Launch(f"{launcher}, which starts a command in each task", call.lineno, scheduled=launcher == "submitit")
    launch = _sized(launch, calls)
    kind = "command"
    if words[:1] and words[0].shell.rpartition("/")[2] in ("python", "python3", "sys.executable"):
        kind, words = ("module", words[2:]) if words[1].shell == "-m" else ("script", words[1:])
    launch = launch._replace(kind=kind, program=tuple(words))
    changed = [Remark(line, text, why) for line, text, why in unknown]
    if launcher == "ray":
        changed.append(Remark(0, "", "muster starts the ranks itself; no Ray cluster is needed"))
    return Adoption(path, (launch,), tuple(changed))


def _name(node: ast.AST) -> str:
    if isinstance(node, ast.Attribute):
        return f"{_name(node.value)}.{node.attr}"
    return node.id if isinstance(node, ast.Name) else ""


_RUNS = ("os.system", "subprocess.run", "subprocess.call", "subprocess.check_call", "subprocess.Popen", "os.execvp")


def _commands(tree: ast.AST) -> Iterator[tuple[ast.Call, ast.FunctionDef | None]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and _name(node.func).endswith("CommandFunction") and node.args:
            yield node, None
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef):
            for inner in ast.walk(node):
                if isinstance(inner, ast.Call) and _name(inner.func) in _RUNS and inner.args:
                    yield inner, node


def _meanings(tree: ast.AST, function: ast.FunctionDef | None) -> dict[str, ast.expr | str]:
    """Return what names stand for in the function: shell text such as `$RANK`, or an expression."""
    found: dict[str, ast.expr | str] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Assign) and len(node.targets) == 1 and isinstance(node.targets[0], ast.Name):
            found[node.targets[0].id] = _variable(node.value) or node.value
    if function is None:
        return found
    names = [argument.arg for argument in function.args.args]
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        called = _name(node.func)
        passed: list[ast.expr] = []
        if called.endswith(".submit") and node.args and _name(node.args[0]) == function.name:
            passed = node.args[1:]
        elif called == f"{function.name}.remote":
            passed = node.args
        for name, value in zip(names, passed):
            if isinstance(value, ast.Name) and isinstance(found.get(value.id), str):
                found[name] = found[value.id]
            elif isinstance(value, ast.Name) and value.id not in found:
                found[name] = "$RANK"  # the variable of a loop over the ranks
            else:
                found[name] = value
    return found


def _variable(node: ast.expr) -> str:
    """Return `$RANK` for `int(os.environ.get("SLURM_PROCID", 0))`."""
    for inner in ast.walk(node):
        if isinstance(inner, ast.Constant) and inner.value in _RANKS and "environ" in ast.dump(node):
            return _RANKS[str(inner.value)]
        if isinstance(inner, ast.Attribute) and inner.attr in _RANKS:
            return _RANKS[inner.attr]
    return ""


def _words(call: ast.Call, meanings: dict[str, ast.expr | str]) -> tuple[list[Argument], list[tuple[int, str, str]]]:
    unknown: list[tuple[int, str, str]] = []
    node = call.args[0]
    if isinstance(node, ast.Name):
        value = meanings.get(node.id)
        node = value if isinstance(value, ast.expr) else node
    if isinstance(node, (ast.List, ast.Tuple)):
        return [_argument(item, meanings, unknown) for item in _spread(node.elts, meanings)], unknown
    text = _template(node, meanings, unknown)
    marks = text.replace("\1", "").replace("\2", "")
    try:
        split = shlex.split(text)
    except ValueError:
        split = marks.split()
    return [_marked(word) for word in split], unknown


def _spread(items: list[ast.expr], meanings: dict[str, ast.expr | str]) -> list[ast.expr]:
    """Return the items with the lists that are known in place of `*names`."""
    found: list[ast.expr] = []
    for item in items:
        inner = item.value if isinstance(item, ast.Starred) else item
        value = meanings.get(inner.id) if isinstance(inner, ast.Name) and inner is not item else inner
        known = isinstance(value, (ast.List, ast.Tuple)) and inner is not item
        found += value.elts if known and isinstance(value, (ast.List, ast.Tuple)) else [inner]
    return found


def _argument(node: ast.expr, meanings: dict[str, ast.expr | str], unknown: list[tuple[int, str, str]]) -> Argument:
    if _name(node) == "sys.executable":
        return Argument("python")
    return _marked(_template(node, meanings, unknown))


def _marked(word: str) -> Argument:
    """Return a word in which variables stand between marks."""
    pieces = word.replace("\2", "\1").split("\1")
    if len(pieces) == 1:
        return Argument(quote(word))
    shell = "".join(f'"{piece}"' if at % 2 else quote(piece) if piece else "" for at, piece in enumerate(pieces))
    return Argument(shell, True)


def _template(node: ast.expr, meanings: dict[str, ast.expr | str], unknown: list[tuple[int, str, str]]) -> str:
    if isinstance(node, ast.Constant):
        return str(node.value)
    if isinstance(node, ast.JoinedStr):
        return "".join(_template(value, meanings, unknown) for value in node.values)
    if isinstance(node, ast.FormattedValue):
        return _template(node.value, meanings, unknown)
    if isinstance(node, ast.Call) and _name(node.func) == "str" and node.args:
        return _template(node.args[0], meanings, unknown)
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        return _template(node.left, meanings, unknown) + _template(node.right, meanings, unknown)
    meant = meanings.get(node.id) if isinstance(node, ast.Name) else _variable(node) or None
    if isinstance(meant, str) and meant:
        return f"\1{meant}\2"
    if isinstance(meant, ast.expr) and meant is not node:
        return _template(meant, {**meanings, getattr(node, "id", ""): ""}, unknown)
    unknown.append((node.lineno, ast.unparse(node), "its value is not known from the program; write it here"))
    return f"\1${ast.unparse(node)}\2" if isinstance(node, ast.Name) else ast.unparse(node)


def _sized(launch: Launch, calls: list[ast.Call]) -> Launch:
    """Return the launch with the numbers that the program gives."""
    values: dict[str, str] = {}
    for call in calls:
        named = _name(call.func)
        if named.endswith((".update_parameters", "ScalingConfig")):
            for item in call.keywords:
                if item.arg and isinstance(item.value, ast.Constant):
                    values[item.arg] = str(item.value.value)
    each = values.get("tasks_per_node") or values.get("ntasks_per_node") or values.get("slurm_ntasks_per_node") or ""
    nodes = values.get("nodes") or values.get("slurm_nodes") or ""
    options = [(_SAME[name], value) for name, value in values.items() if name in _SAME]
    minutes = values.get("timeout_min") or values.get("time") or values.get("slurm_time")
    options += [("time", minutes)] if minutes else []
    cpus = values.get("cpus_per_task") or values.get("slurm_cpus_per_task") or ""
    if cpus.isdigit() and each.isdigit():
        options.append(("cpus-per-task", str(int(cpus) * int(each))))
    total = values.get("num_workers", "")
    return launch._replace(
        nodes=int(nodes) if nodes.isdigit() else 1 if launch.scheduled else None,
        each=each or ("1" if launch.scheduled else "" if total else "gpu"),
        total=int(total) if total.isdigit() else None,
        options=tuple(options),
    )
