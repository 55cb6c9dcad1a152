"""For ranks of a run with several programs: where those of the other roles are."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from typing import NamedTuple

from muster.errors import InvalidRequest
from muster.python.entry import entry


class RoleHosts(NamedTuple):
    """A role of this run: where its ranks are."""

    name: str
    hosts: tuple[str, ...]
    """The names of its hosts, in the order of its ranks."""
    addresses: tuple[str, ...]
    """The address of each of these hosts, which all ranks of the run can reach."""
    ranks: int
    """The number of its ranks."""
    ranks_per_node: tuple[int, ...]
    """The number of its ranks on each of these hosts."""
    port: int
    """A port of the first host that was free when the attempt started, for whatever the role wants to offer."""

    @property
    def endpoint(self) -> tuple[str, int]:
        """The address of its first host, and its port, as `socket.create_connection` takes them."""
        return self.addresses[0], self.port


@entry
def roles() -> Mapping[str, RoleHosts]:
    """Return the roles of this run by name; none if it has one program.

        host, port = muster.roles()["rollout"].endpoint

    Raises `muster.errors.InvalidRequest` if MUSTER_ROLES was damaged.
    """
    text = os.environ.get("MUSTER_ROLES", "{}")
    try:
        return {name: _role(name, found) for name, found in json.loads(text).items()}
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise InvalidRequest(f"cannot read MUSTER_ROLES: {error!r}", "leave it as `muster run` sets it") from None


def _role(name: str, found: Mapping[str, object]) -> RoleHosts:
    def several(key: str) -> list[object]:
        value = found[key]
        if not isinstance(value, list):
            raise TypeError(key)
        return value

    hosts, addresses = (tuple(str(item) for item in several(key)) for key in ("hosts", "addresses"))
    each = tuple(int(str(item)) for item in several("ranks_per_node"))
    return RoleHosts(name, hosts, addresses, int(str(found["ranks"])), each, int(str(found["port"])))
