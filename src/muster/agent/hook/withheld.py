"""Modules that the fork server imports before the script, and withholds until the script imports them."""

from __future__ import annotations

import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Any


def is_standard(name: str, top: object) -> bool:
    """Return True if a module belongs to the standard library; `top` is its top-level module."""
    names = getattr(sys, "stdlib_module_names", None)
    if names is not None:
        return name.partition(".")[0] in names
    path = getattr(top, "__file__", None)  # Python 3.9 has no list
    return path is None or (path.startswith(os.path.dirname(os.__file__) + os.sep) and "-packages" not in path)


class EnvironmentReads:
    """Context in which the names of environment variables that Python code reads are recorded."""

    def __init__(self) -> None:
        self.names: set[str] = set()

    def __enter__(self) -> None:
        environ: Any = os.environ
        self.encode = encode = environ.encodekey  # every access by name goes through it

        def noted(name: str) -> bytes:
            # tqdm and fsspec look at all variables to find those with their prefixes: no read of the others
            if sys._getframe(2).f_code.co_name not in ("__iter__", "set_conf_env"):
                self.names.add(name)
            found: bytes = encode(name)
            return found

        environ.encodekey = noted

    def __exit__(self, *_: object) -> None:
        environ: Any = os.environ
        environ.encodekey = self.encode


class Unit:
    """What one import of the script adds, if it was made before the script."""

    def __init__(self) -> None:
        self.modules: dict[str, Any] = {}
        self.needs: set[str] = set()
        """The units and packages that it imports itself."""
        self.attributes: list[tuple[Any, str, Any]] = []
        """Modules, names and values: its modules in the packages of other units."""
        self.env: dict[str, str] = {}
        """Environment variables that it sets."""
        self.filters: list[Any] = []
        """Warning filters that it adds."""
        self.finders: list[tuple[bool, Any]] = []
        """Finders that it adds to `sys.meta_path`, and whether in front of the others."""

    def apply(self) -> None:
        """Give back what `Withheld.end_unit` took away, apart from modules and filters."""
        for parent, name, value in self.attributes:
            vars(parent).setdefault(name, value)
        for name, text in self.env.items():
            os.environ.setdefault(name, text)
        finders: list[Any] = sys.meta_path
        for front, finder in self.finders:
            finders.insert(0 if front else len(finders), finder)


class Withheld:
    """Modules that were imported before the script, hidden until the script imports them itself.

    So `"torch" in sys.modules` is False as in plain Python before the script imports torch; that moment is known, and a
    torch that the script puts earlier on `sys.path` is the one it gets. This is a finder of `sys.meta_path`: the
    script's imports are searched as usual, and if the result is the same file, the existing module is used instead of a
    new one.
    """

    def __init__(self, counting: Mapping[str, Any]) -> None:
        self.names, self.prefixes = set(counting["names"]), tuple(counting["prefixes"])
        self.caught_up, self.threads = set(counting["caught_up"]), int(counting["threads"])
        self.groups: dict[str, set[str]] = {}
        self.modules: dict[str, Any] = {}
        """All modules outside the standard library that were loaded before the script."""
        self.withheld: dict[str, dict[str, Any]] = {}
        """Those of them that the script has not imported yet, by top-level package."""
        self.units: dict[str, Unit] = {}
        """Imports of the script that were made in addition, by their text; their modules are withheld together."""
        self.unit_of: dict[str, str] = {}
        """The unit of each module that can be found by its name."""
        self.preparing: Unit | None = None
        """The unit that is being imported now."""
        self.shown: dict[str, dict[str, Any]] = {}
        """What its import has shown, to be withheld again."""
        self.forgotten: dict[str, Any] = {}
        """Modules that nobody needs, kept because their end would write to the pages that processes share."""
        self.filters: list[Any] = []
        self.importing = ""
        self.warnings: dict[str, list[tuple[Any, Any, str, int]]] = {}
        """Warnings during imports; each rank repeats them when its script imports the same."""
        self.tempdir: str | None = None
        self.asked: Any = None
        self.index = 0
        """Index of this rank's byte in `asked`."""
        self.env: dict[str, str] | None = None
        """The environment with which the script started, in a rank."""
        self.told: set[str] = set()
        """Environment variables set too late that the rank has reported."""

    def note_warning(self, message: Any, category: Any, filename: str, lineno: int, *_: Any) -> None:
        """Replacement of `warnings.showwarning`."""
        self.warnings.setdefault(self.importing, []).append((message, category, filename, lineno))

    def map_asked(self, asked: tuple[int, int] | None) -> None:
        """Share a byte per rank with the agent, which is set when the script has imported torch.

        `asked` is a descriptor and the number of bytes. Memory is shared, because a script may close descriptors.
        """
        if asked is None:
            return
        import ctypes

        fd, size = asked
        libc = ctypes.CDLL(None)
        libc.mmap.restype = ctypes.c_void_p
        libc.mmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t, *(ctypes.c_int,) * 3, ctypes.c_long)
        address = libc.mmap(None, size, 3, 1, fd, 0)  # read and write; shared
        os.close(fd)
        if address != ctypes.c_void_p(-1).value:
            self.asked = (ctypes.c_char * size).from_address(address)

    def note(self, name: str, known: set[str]) -> None:
        """Record the import of `name`; `known` are the modules before."""
        tops = {module.partition(".")[0] for module in set(sys.modules) - known}
        self.groups.setdefault(name.partition(".")[0], set()).update(tops)

    def choose(self, before: set[str]) -> None:
        """Choose what is hidden: whole packages that were not there before, and that come from files."""
        from importlib.machinery import ExtensionFileLoader, SourceFileLoader

        there = {name.partition(".")[0] for name in before}
        for name, module in self.modules.items():
            top = name.partition(".")[0]
            spec = getattr(self.modules.get(top), "__spec__", None)
            if top not in there and type(getattr(spec, "loader", None)) in (SourceFileLoader, ExtensionFileLoader):
                self.withheld.setdefault(top, {})[name] = module

    def hide(self) -> None:
        """Hide what was chosen."""
        for modules in self.withheld.values():
            for name in modules:
                sys.modules.pop(name, None)
        self._set_filters([entry for entry in self._all_filters() if not any(entry is ours for ours in self.filters)])
        finders: list[Any] = sys.meta_path
        finders.insert(0, self)

    def _all_filters(self) -> list[Any]:
        import warnings

        return list(warnings.filters)

    def _set_filters(self, filters: list[Any]) -> None:
        import warnings

        entries: list[Any] = warnings.filters  # type: ignore[assignment]
        entries[:] = filters
        with warnings.catch_warnings():  # makes Python drop what it cached from the old ones
            pass

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        """Return the spec of the other finders; its loader gives the existing module, if that is from the same file."""
        key = self.unit_of.get(name, name)
        if key not in self.withheld:
            return None
        module = self.withheld[key][name]
        for finder in sys.meta_path:
            spec = finder.find_spec(name, path, target) if finder is not self else None
            if spec is not None:
                break
        else:
            return None
        if spec.origin != module.__spec__.origin:
            self.tell(f"imports {name} from {spec.origin}, but {module.__spec__.origin} was already loaded")
            del self.withheld[key]
            return spec
        ahead, real = self, module.__spec__

        class Loader(type(spec.loader)):  # type: ignore[misc]
            def create_module(self, spec: Any) -> Any:
                return module

            def exec_module(self, module: Any) -> None:
                module.__spec__ = real
                ahead.show(key)

        Loader.__name__, Loader.__qualname__ = type(spec.loader).__name__, type(spec.loader).__qualname__
        Loader.__module__ = type(spec.loader).__module__
        loader = object.__new__(Loader)
        loader.__dict__.update(spec.loader.__dict__)
        spec.loader = loader
        return spec

    def forget(self, top: str) -> None:
        """Act as if this package had not been imported: whoever imports it gets another copy."""
        for name, module in self.withheld.pop(top, {}).items():
            self.forgotten[name] = self.modules.pop(name, module)
        for tops in self.groups.values():
            tops.discard(top)

    def has(self, module: str, names: Sequence[str]) -> bool:
        """Return whether `import module`, or `from module import names`, would load nothing that is not loaded."""
        top = module.partition(".")[0]
        there = self.withheld.get(top, {}).get(module) if top not in self.units else None
        return there is not None and all(name in vars(there) for name in names)

    def begin_unit(self, key: str) -> None:
        """Prepare to import a unit: from now on, what it imports of other units is noted as what it needs."""
        import warnings

        self.importing, self.preparing = key, Unit()
        self.before = dict(sys.modules), list(sys.meta_path), dict(os.environ), list(warnings.filters)

    def end_unit(self, key: str) -> None:
        """Withhold the unit that was imported, and again what it needs."""
        from importlib.machinery import ExtensionFileLoader, SourceFileLoader

        unit, self.preparing = self.preparing, None
        assert unit is not None
        modules, finders, env, filters = self.before
        self._withdraw(unit.needs)
        for name, module in list(sys.modules.items()):
            if name not in modules and not is_standard(name, sys.modules.get(name.partition(".")[0])):
                unit.modules[name] = module
        for name, module in unit.modules.items():
            del sys.modules[name]
            self.modules[name] = module
            if type(getattr(getattr(module, "__spec__", None), "loader", None)) in (
                SourceFileLoader,
                ExtensionFileLoader,
            ):
                self.unit_of[name] = key
            above, _, child = name.rpartition(".")
            parent = self.modules.get(above)
            if above not in unit.modules and getattr(parent, "__dict__", {}).get(child) is module:
                unit.attributes.append((parent, child, module))
        unit.env = {name: value for name, value in os.environ.items() if name not in env}
        added = [finder for finder in sys.meta_path if not any(finder is old for old in finders)]
        unit.finders = [(sys.meta_path.index(finder) < sys.meta_path.index(self), finder) for finder in added]
        unit.filters = [entry for entry in self._all_filters() if not any(entry is old for old in filters)]
        self.units[key], self.withheld[key] = unit, unit.modules
        self._take_back(unit)
        self._set_filters(filters)
        if not unit.modules:
            del self.units[key], self.withheld[key]

    def _take_back(self, unit: Unit) -> None:
        for parent, child, module in unit.attributes:
            if vars(parent).get(child) is module:
                delattr(parent, child)
        for name in unit.env:
            os.environ.pop(name, None)
        added = [finder for _, finder in unit.finders]
        finders: list[Any] = sys.meta_path
        finders[:] = [finder for finder in finders if not any(finder is one for one in added)]

    def _withdraw(self, keys: set[str]) -> None:
        """Hide again what the import of a unit has shown."""
        for key in keys:
            for name, module in self.shown.pop(key).items():
                self.withheld.setdefault(key, {})[name] = module
                sys.modules.pop(name, None)
            if key in self.units:
                self._take_back(self.units[key])

    def reveal(self, key: str) -> list[str]:
        """Put what is withheld by this key, and what it needs, into `sys.modules`; return the keys."""
        if key not in self.withheld:
            return []
        found, unit = [key], self.units.get(key)
        modules = self.withheld.pop(key)
        for other in sorted(unit.needs if unit else self.groups.get(key, ())):
            found += self.reveal(other)
        for name, module in modules.items():
            sys.modules.setdefault(name, module)
        if unit is not None:
            unit.apply()
        if self.preparing is not None:
            self.shown[key] = modules
        return found

    def show(self, key: str) -> None:
        """Show this package or unit, which the script imports now, and what it imports itself."""
        keys = self.reveal(key)
        if self.preparing is not None:
            self.preparing.needs.update(keys)
            return
        units = [self.units[each] for each in reversed(keys) if each in self.units]
        tops = [each for each in keys if each not in self.units]
        added = [entry for unit in reversed(units) for entry in unit.filters]
        if tops:
            added, self.filters = added + self.filters, []
        if added:
            self._set_filters(added + [entry for entry in self._all_filters() if entry not in added])
        tops += [name for unit in units for name in unit.modules if "." not in name]
        if not self.withheld:
            finders: list[Any] = sys.meta_path
            finders.remove(self)
        if self.env is not None:
            for unit in units:
                self.env.update(unit.env)
            self.catch_up(tops, self.env)
        for each in reversed(keys):
            for warning in self.warnings.pop(each, ()):
                import warnings

                warnings.warn_explicit(*warning)

    def catch_up(self, tops: list[str], env: Mapping[str, str]) -> None:
        """Do what the import of these packages would have done in the current environment."""
        changed = {name for name in {*env, *os.environ} if env.get(name) != os.environ.get(name)}
        if self.tempdir and "torch" in tops:
            import tempfile

            # torch makes Python choose the directory for temporary files
            if not tempfile.tempdir and not changed & {"TMPDIR", "TEMP", "TMP"}:
                tempfile.tempdir = self.tempdir
            tempfile.gettempdir()
        changed = {name for name in changed if name in self.names or name.startswith(self.prefixes)}
        late = changed - self.caught_up
        if "OMP_NUM_THREADS" in changed and not self.set_threads(tops):
            late.add("OMP_NUM_THREADS")
        torch = sys.modules.get("torch") if "torch" in tops else None
        if torch and self.asked is not None:
            self.asked[self.index] = b"1"
        if torch and "TORCH_LOGS" in changed:
            torch._logging._internal._init_logs()
        if torch and "TORCH_DISTRIBUTED_DEBUG" in changed:
            torch.distributed.set_debug_level_from_env()
        late -= self.told
        self.told |= late
        if late:
            by = "torch" if "torch" in tops or not tops else tops[0]
            self.tell(f"set {', '.join(sorted(late))} too late: {by} was already loaded")

    def set_threads(self, tops: list[str]) -> bool:
        """Apply OMP_NUM_THREADS as these packages do; return False if that is not known."""
        value = os.environ.get("OMP_NUM_THREADS", "")
        # MKL reduces a number above that of the cores
        if not value.isdecimal() or not 0 < int(value) <= self.threads or "MKL_NUM_THREADS" in os.environ:
            return False
        if "torch" in tops:
            sys.modules["torch"].set_num_threads(int(value))
        if "numpy" in tops and "OPENBLAS_NUM_THREADS" not in os.environ:
            import ctypes

            with open("/proc/self/maps") as maps:
                paths = {line.split()[-1] for line in maps if "openblas" in line}
            for path in paths:
                library = ctypes.CDLL(path)
                for form in ("scipy_openblas_%s64_", "scipy_openblas_%s", "openblas_%s64_", "openblas_%s"):
                    if hasattr(library, form % "set_num_threads"):
                        getattr(library, form % "set_num_threads")(int(value))
                        break
        return True

    def tell(self, what: str) -> None:
        """Print a difference from plain Python."""
        os.write(2, f"muster: warning: this rank {what}; use `--launcher exec` for one interpreter per rank\n".encode())
