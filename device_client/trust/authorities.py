"""The certificate authorities that TLS to the server is checked against: this machine's, read once for all connections.

urllib3 reads them again for every connection: a MiB of memory and some milliseconds each. Every setting is urllib3's own default:
certificates required, host names checked, TLS 1.2 and newer. Long-lived processes make no connections, so that a change of the
machine's list counts from the next poll.
"""

from __future__ import annotations

import os
import ssl
from functools import lru_cache


def default_context() -> ssl.SSLContext:
    """The context for connections to servers, the same for as long as the environment leads to the same list."""
    return _context(os.environ.get("SSL_CERT_FILE"), os.environ.get("SSL_CERT_DIR"))


@lru_cache(maxsize=1)
def _context(_file: str | None, _folder: str | None) -> ssl.SSLContext:
    # The two are read by ``load_default_certs`` itself; here they tell one list from another.
    from urllib3.util.ssl_ import create_urllib3_context

    context = create_urllib3_context()
    context.load_default_certs()
    return context
