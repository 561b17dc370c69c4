"""Fail when tests against PostgreSQL or Redis were skipped although the service answers here."""

import os
import socket
import sys
import xml.etree.ElementTree as ET
from urllib.parse import urlsplit

SERVICES = {
    "PostgreSQL": os.environ.get("MATINEE_TEST_POSTGRES", "postgresql://127.0.0.1:5432/test"),
    "Redis": os.environ.get("MATINEE_TEST_REDIS", "redis://127.0.0.1:6379"),
}


def answers(url: str) -> bool:
    """Whether something accepts connections there."""
    parts = urlsplit(url)
    try:
        with socket.create_connection((parts.hostname, parts.port), timeout=2):
            return True
    except OSError:
        return False


def main(report: str) -> int:
    """Print and count the tests that a reachable service should have run."""
    skipped = [
        (case.get("name"), skip.get("message", ""))
        for case in ET.parse(report).iter("testcase")
        for skip in case.iter("skipped")
    ]
    wrong = [(n, m) for service, url in SERVICES.items() for n, m in skipped if service in m and answers(url)]
    for name, message in wrong:
        print(f"skipped although it answers: {name}: {message}")
    print(f"services: {len(wrong)} tests skipped that should have run")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
