"""Under which names a server is reached, and from where: no other website may speak to it through a browser."""

import ipaddress
from collections.abc import Collection, Mapping

from loratory.infer.server.refusal import RefusalError


class Doorway:
    """The check of Host, Origin and Sec-Fetch-Site.

    Args:
        hosts: Names that requests may give as their host; addresses of this machine are allowed when the server
            listens to more than itself.
        is_local: Whether the server listens to its own machine only.
    """

    def __init__(self, hosts: Collection[str], *, is_local: bool) -> None:
        self._hosts = {host.lower().strip("[]") for host in hosts}
        self._is_local = is_local

    def check(self, headers: Mapping[bytes, bytes]) -> None:
        """Refuse a request that came under another name or from another site.

        Raises:
            RefusalError: 403.
        """
        host = headers.get(b"host", b"").decode("latin-1").lower()
        if not self._is_own(_without_port(host)):
            raise RefusalError(403, "this host name is not served here", code="host_not_allowed")
        origin = headers.get(b"origin")
        if origin is not None and origin.decode("latin-1").lower() not in {f"http://{host}", f"https://{host}"}:
            raise RefusalError(403, "requests from other origins are not answered", code="origin_not_allowed")
        if headers.get(b"sec-fetch-site", b"none") not in (b"none", b"same-origin"):
            raise RefusalError(403, "requests from other sites are not answered", code="origin_not_allowed")

    def _is_own(self, name: str) -> bool:
        if name in self._hosts:
            return True
        try:
            address = ipaddress.ip_address(name)
        except ValueError:
            return False
        # An address is no name that somebody else could point here.
        return address.is_loopback if self._is_local else True


def _without_port(host: str) -> str:
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.partition(":")[0]
