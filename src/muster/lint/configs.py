"""A configuration in JSON or YAML with the place of each value."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import yaml

from muster.lint.model import Source, Span


class Item:
    """A value: a mapping, a list, or a scalar as text."""

    def __init__(self, value: Any, span: Span, key: Span | None = None) -> None:
        self.value = value
        """A dict of `Item`s, a list of them, or the text of a scalar."""
        self.span = span
        self.key = key
        """Where the key is written."""

    def get(self, *path: str) -> Item | None:
        """The item at a path of keys; None if there is none."""
        found: Item | None = self
        for name in path:
            inner = found.value if found is not None else None
            found = inner.get(name) if isinstance(inner, dict) else None
        return found

    @property
    def number(self) -> int | None:
        """The value as a whole number; None for anything else, such as `auto`."""
        return int(self.value) if isinstance(self.value, str) and re.fullmatch(r"\d{1,12}", self.value) else None

    @property
    def is_true(self) -> bool:
        """True for `true`, `yes`, `on`."""
        return isinstance(self.value, str) and self.value.lower() in ("true", "yes", "on")

    @property
    def text(self) -> str:
        """The text of a scalar; empty for others."""
        return self.value if isinstance(self.value, str) else ""


class Config:
    """A configuration of accelerate or DeepSpeed, or something else."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self.fault: tuple[Span, str] | None = None
        """Place and reason, if the file cannot be parsed."""
        self.node: Any = None
        """What YAML has read; None if the file cannot be parsed."""
        self.is_json = source.text.lstrip().startswith("{")
        self.root = self._parse()

    def _parse(self) -> Item:
        text = self.source.text
        if self.is_json:
            try:
                json.loads(text)
            except json.JSONDecodeError as error:
                at = min(error.pos, len(text) - 1)
                self.fault = Span(at, at + 1), error.msg[:1].lower() + error.msg[1:]
                return Item({}, Span(0, 1))
            except (ValueError, RecursionError) as error:  # a number of thousands of digits
                return self._unreadable(error)
            text = text.replace("\t", " ")
        try:
            self.node = yaml.compose(text, Loader=yaml.SafeLoader)
            return _item(self.node) if self.node is not None else Item({}, Span(0, 1))
        except RecursionError as error:
            return self._unreadable(error)
        except yaml.MarkedYAMLError as error:
            mark = error.problem_mark
            at = max(0, min(mark.index if mark is not None else 0, len(text) - 1))
            self.fault = Span(at, at + 1), str(error.problem)
            return Item({}, Span(0, 1))
        except yaml.YAMLError:
            return Item({}, Span(0, 1))

    def _unreadable(self, error: Exception) -> Item:
        """Note why the whole file cannot be read."""
        self.fault = Span(0, 1), "it is nested too deeply" if isinstance(error, RecursionError) else str(error)
        return Item({}, Span(0, 1))

    @property
    def is_deepspeed(self) -> bool:
        """True for a configuration of DeepSpeed, by its keys."""
        keys = self.root.value if isinstance(self.root.value, dict) else {}
        return any(
            name in keys
            for name in (
                "zero_optimization",
                "train_micro_batch_size_per_gpu",
                "zero_allow_untested_optimizer",
                "gradient_accumulation_steps",
                "train_batch_size",
            )
        )

    @property
    def is_accelerate(self) -> bool:
        """True for a configuration of accelerate, by its keys."""
        keys = self.root.value if isinstance(self.root.value, dict) else {}
        return "compute_environment" in keys or ("distributed_type" in keys and "num_processes" in keys)


def _item(node: Any, key: Any = None, inside: tuple[Any, ...] = ()) -> Item:
    """Return a node as an item; `inside` are the nodes around it, of which an alias (`&a [*a]`) may be one."""
    span = Span(node.start_mark.index, max(node.end_mark.index, node.start_mark.index + 1))
    key_span = Span(key.start_mark.index, key.end_mark.index) if key is not None else None
    if node in inside:
        return Item("", span, key_span)
    inside = (*inside, node)
    if isinstance(node, yaml.MappingNode):
        return Item({str(name.value): _item(value, name, inside) for name, value in node.value}, span, key_span)
    if isinstance(node, yaml.SequenceNode):
        return Item([_item(value, None, inside) for value in node.value], span, key_span)
    return Item(str(node.value), span, key_span)


def duplicates(config: Config) -> Iterator[tuple[str, Span]]:
    """The keys that a mapping has twice; the last one counts."""
    waiting, visited = [config.node], set()
    while waiting:
        inner = waiting.pop()
        if id(inner) in visited:  # an alias
            continue
        visited.add(id(inner))
        if isinstance(inner, yaml.MappingNode):
            seen = set()
            for name, value in inner.value:
                key = str(name.value)
                if key in seen:
                    yield key, Span(name.start_mark.index, name.end_mark.index)
                seen.add(key)
                waiting.append(value)
        elif isinstance(inner, yaml.SequenceNode):
            waiting += inner.value
