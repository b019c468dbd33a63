"""Ask the service in this container: ``python probe.py /live`` succeeds if it answers 200.

Python, because the image has no curl; not urllib, which would follow ``http_proxy``.
"""

import http.client
import os
import sys

TIMEOUT = 3.0
"""Seconds; less than what the health check allows, so that the reason is seen."""


def main() -> int:
    """0 if it answers 200, else 1; shows what it answers, or why it does not."""
    port = int(os.environ["UVICORN_PORT"])
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=TIMEOUT)
    try:
        connection.request("GET", sys.argv[1])
        answer = connection.getresponse()
        print(answer.status, answer.read(1000).decode(errors="replace"))
    except (OSError, http.client.HTTPException) as error:
        print(error)
        return 1
    return 0 if answer.status == http.client.OK else 1


sys.exit(main())
