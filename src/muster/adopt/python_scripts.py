"""Python programs that launch ranks with submitit or Ray: the command that each task runs, and their number. Pure."""

from __future__ import annotations

import ast
import re
import shlex
from collections.abc import Iterator

from muster.adopt.adoption import Adoption, Argument, Launch, Remark
from muster.export._shell import quote
from muster.lint.python import parsed
from muster.lint.values import computed

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
        tree = parsed(source)
    except (SyntaxError, ValueError, RecursionError, MemoryError):  # too deeply nested
        return ""
    names = {
        alias.name.partition(".")[0] for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names
    }
    names |= {(node.module or "").partition(".")[0] for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    return next((name for name in ("submitit", "ray") if name in names), "")


def adopt_python(path: str, source: str) -> Adoption:
    """Return what such a program launches."""
    launcher, tree = launcher_of(source), parsed(source)
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
    launch, sized = _sized(launch, calls, Constants(tree))
    if launcher == "ray":
        launch = launch._replace(total=launch.total or _workers(tree), each="" if _workers(tree) else launch.each)
    kind = "command"
    if words[:1] and words[0].shell.rpartition("/")[2] in ("python", "python3", "sys.executable"):
        kind, words = ("module", words[2:]) if words[1].shell == "-m" else ("script", words[1:])
    launch = launch._replace(kind=kind, program=tuple(words))
    unknown += sized
    sweep = _swept(tree, function, meanings)
    if sweep is not None:
        launch = launch._replace(options=(sweep, *launch.options))
        unknown.append((call.lineno, "", "the program submits a job for each value: they are a sweep"))
    changed = [Remark(line, text, why) for line, text, why in dict.fromkeys(unknown)]
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
    found.update({f".{name}": node for name, node in Constants(tree).defaults.items()})
    if function is None:
        return found
    names = [argument.arg for argument in function.args.args if argument.arg != "self"]
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        called = _name(node.func)
        passed: list[ast.expr] = []
        if called.endswith(".submit") and node.args and _name(node.args[0]) == function.name:
            passed = node.args[1:]
        elif called == f"{function.name}.remote" or called.endswith(f".{function.name}.remote"):
            passed = node.args
        for name, value in zip(names, passed):
            if isinstance(value, ast.Name) and isinstance(found.get(value.id), str):
                found[name] = found[value.id]
            elif isinstance(value, ast.Name) and value.id not in found:
                over = _loop_of(tree, value.id)
                if over is not None and called.endswith(".remote") and _name(over) in ("range", "enumerate"):
                    found[name] = "$RANK"  # the variable of a loop over the ranks
                elif over is not None and _listed(over):
                    found[name] = f"{{{value.id}}}"  # a job for each value
            else:
                found[name] = value
    return found


def _loop_of(tree: ast.AST, name: str) -> ast.expr | None:
    """Return what the loop goes over whose variable this is; for a call, the function that is called."""
    for node in ast.walk(tree):
        if isinstance(node, (ast.For, ast.comprehension)):
            bound = [inner.id for inner in ast.walk(node.target) if isinstance(inner, ast.Name)]
            if name in bound:
                counted = isinstance(node.iter, ast.Call) and bound[0] == name
                return node.iter.func if counted and isinstance(node.iter, ast.Call) else node.iter
    return None


def _listed(node: ast.expr) -> list[str]:
    items = node.elts if isinstance(node, (ast.List, ast.Tuple)) else []
    values = [str(item.value) for item in items if isinstance(item, ast.Constant)]
    return values if len(values) == len(items) else []


def _swept(
    tree: ast.AST, function: ast.FunctionDef | None, meanings: dict[str, ast.expr | str]
) -> tuple[str, str] | None:
    """Return `--sweep` for a function that is submitted for each value of a list."""
    names = [argument.arg for argument in function.args.args] if function is not None else []
    for meant in (meanings.get(name) for name in names):
        over = _loop_of(tree, meant[1:-1]) if isinstance(meant, str) and meant.startswith("{") else None
        if isinstance(meant, str) and over is not None:
            return "sweep", f"{meant[1:-1]}={','.join(_listed(over))}"
    return None


def _workers(tree: ast.AST) -> int | None:
    """Return how many tasks of Ray a loop over `range(N)` starts, if that is known."""
    constants = Constants(tree)
    for node in ast.walk(tree):
        if isinstance(node, (ast.ListComp, ast.GeneratorExp, ast.For)):
            over = node.iter if isinstance(node, ast.For) else node.generators[0].iter
            started = any(isinstance(inner, ast.Attribute) and inner.attr == "remote" for inner in ast.walk(node))
            if started and isinstance(over, ast.Call) and _name(over.func) == "range" and len(over.args) == 1:
                count = constants.value(over.args[0])
                if count.isdigit():
                    return int(count)
    return None


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
    if meant is None and isinstance(node, ast.Attribute):
        meant = meanings.get(f".{node.attr}")
        if isinstance(meant, ast.expr):
            unknown.append((node.lineno, ast.unparse(node), "the default of the option is in the line"))
    if isinstance(meant, str) and meant.startswith("{"):
        return meant
    if isinstance(meant, str) and meant:
        return f"\1{meant}\2"
    if isinstance(meant, ast.expr) and meant is not node:
        return _template(meant, {**meanings, getattr(node, "id", ""): ""}, unknown)
    unknown.append((node.lineno, ast.unparse(node), "its value is not known from the program; write it here"))
    return f"\1${ast.unparse(node)}\2" if isinstance(node, ast.Name) else ast.unparse(node)


class Constants:
    """The numbers and texts of a program: of names with one value, and of options of argparse with a default."""

    def __init__(self, tree: ast.AST) -> None:
        self.names: dict[str, ast.expr] = {}
        self.defaults: dict[str, ast.expr] = {}
        for node in ast.walk(tree):
            if isinstance(node, ast.Assign):
                self.names.update({item.id: node.value for item in node.targets if isinstance(item, ast.Name)})
            elif isinstance(node, ast.Call) and _name(node.func).endswith("add_argument"):
                names = [item.value for item in node.args if isinstance(item, ast.Constant)]
                default = next((item.value for item in node.keywords if item.arg == "default"), None)
                if default is not None:
                    self.defaults.update({str(name).lstrip("-").replace("-", "_"): default for name in names})

    def value(self, node: ast.expr, depth: int = 0) -> str:
        """Return the value of an expression as text; empty if it is not known."""
        if isinstance(node, ast.Constant):
            return str(node.value)
        if isinstance(node, ast.Name) and node.id in self.names and depth < 5:
            return self.value(self.names[node.id], depth + 1)
        if isinstance(node, ast.Attribute) and node.attr in self.defaults:
            return self.value(self.defaults[node.attr], depth + 1)
        if isinstance(node, ast.BinOp):
            left, right = self.value(node.left, depth), self.value(node.right, depth)
            signs = {ast.Mult: "*", ast.Add: "+", ast.Sub: "-", ast.FloorDiv: "/", ast.Div: "/"}
            sign = signs.get(type(node.op))
            return computed(f"{left} {sign} {right}") or "" if sign and left.isdigit() and right.isdigit() else ""
        if isinstance(node, ast.JoinedStr):
            pieces = [self.value(item.value if isinstance(item, ast.FormattedValue) else item) for item in node.values]
            return "".join(pieces) if all(pieces) else ""
        return ""

    def is_default(self, node: ast.expr) -> bool:
        """Return whether a value is the default of an option of the program."""
        return any(isinstance(inner, ast.Attribute) and inner.attr in self.defaults for inner in ast.walk(node))


_READ = frozenset(("nodes", "tasks_per_node", "ntasks_per_node", "cpus_per_task", "timeout_min", "time", "num_workers"))
_ELSEWHERE = frozenset(("stderr_to_stdout", "use_gpu", "resources_per_worker", "trainer_resources"))


def _given(calls: list[ast.Call]) -> Iterator[tuple[str, ast.expr]]:
    """Yield what an executor of submitit, or a ScalingConfig of Ray, is given."""
    for call in calls:
        if _name(call.func).endswith((".update_parameters", "ScalingConfig")):
            for item in call.keywords:
                if item.arg in ("slurm_additional_parameters", "additional_parameters") and isinstance(
                    item.value, ast.Dict
                ):
                    keys = [key.value for key in item.value.keys if isinstance(key, ast.Constant)]
                    yield from zip(map(str, keys), item.value.values)
                elif item.arg:
                    yield item.arg, item.value


def _sized(launch: Launch, calls: list[ast.Call], constants: Constants) -> tuple[Launch, list[tuple[int, str, str]]]:
    """Return the launch with the numbers that the program gives, and what is said about them."""
    values: dict[str, str] = {}
    said: list[tuple[int, str, str]] = []
    setup: list[str] = []
    for name, node in _given(calls):
        plain, value = re.sub("^slurm_", "", name), constants.value(node)
        shown = f"{name}={ast.unparse(node)}"
        if plain == "setup" and isinstance(node, ast.List):
            setup += [str(item.value) for item in node.elts if isinstance(item, ast.Constant)]
        elif not value:
            says = "not known from this program; add `-g RANKS`" if plain in _READ else "its value is not known"
            said.append((node.lineno, shown, says))
        else:
            values[plain] = value
            if constants.is_default(node):
                said.append((node.lineno, shown, f"the default of the option, {value}, is in the line"))
            if plain == "mem_gb":
                values["mem"] = f"{value}G"
            elif plain not in _READ and name not in _SAME and plain not in _SAME and plain not in _ELSEWHERE:
                said.append((node.lineno, shown, "not taken over"))
    each = values.get("tasks_per_node") or values.get("ntasks_per_node") or ""
    nodes = values.get("nodes") or ""
    options = {_SAME[name]: value for name, value in values.items() if name in _SAME}
    minutes = values.get("timeout_min") or values.get("time")
    options.update({"time": minutes} if minutes else {})
    cpus = values.get("cpus_per_task") or ""
    if cpus.isdigit():
        options["cpus-per-task"] = str(int(cpus) * int(each if each.isdigit() else 1))
    total = values.get("num_workers", "")
    return launch._replace(
        nodes=int(nodes) if nodes.isdigit() else 1 if launch.scheduled else None,
        each=each or ("1" if launch.scheduled else "" if total else "gpu"),
        total=int(total) if total.isdigit() else None,
        options=tuple(options.items()),
        setup=tuple(setup),
    ), said
