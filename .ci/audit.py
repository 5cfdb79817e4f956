"""Audit the pinned versions for known vulnerabilities; an unreachable service is not a pass.

pip-audit exits with 1 both for a vulnerability and for a service that cannot be reached. Here the
exit code is 0 when nothing is known or the service cannot be reached (which is printed), 1 when a
vulnerability is known, 2 when pip-audit itself fails.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

CONSTRAINTS = Path(__file__).parents[1] / "constraints.txt"
SILENCE = ("requests.exceptions.", "ServiceError", "Could not connect", "may be blocking this")
"""What pip-audit says when the service does not answer, or not as it should."""


def main(arguments: list[str]) -> int:
    """Audit the pinned versions; further arguments are pip-audit's own."""
    options = ["--no-deps", "--disable-pip", "--progress-spinner", "off", "--format", "json"]
    service = ["--vulnerability-service", "osv"]
    done = subprocess.run(
        [sys.executable, "-m", "pip_audit", "-r", str(CONSTRAINTS), *options, *service, *arguments],
        capture_output=True,
        text=True,
        check=False,
    )
    try:
        asked = json.loads(done.stdout)["dependencies"]
    except ValueError:
        return _without_answer(done.stderr)
    vulnerable = [one for one in asked if one.get("vulns")]
    skipped = [one for one in asked if "skip_reason" in one]
    for one in vulnerable:
        for known in one["vulns"]:
            fixed = ", ".join(known["fix_versions"]) or "no release yet"
            print(f"VULNERABLE {one['name']} {one['version']}: {known['id']}, fixed in {fixed}")
    for one in skipped:
        print(f"NOT AUDITED {one['name']}: {one['skip_reason']}")
    print(f"{len(asked) - len(skipped)} pinned versions audited, {len(vulnerable)} vulnerable.")
    return 1 if vulnerable else 0


def _without_answer(said: str) -> int:
    if any(words in said for words in SILENCE):
        print("NOT AUDITED: the vulnerability service cannot be reached.")
        print(said.strip().rpartition("\n")[2])
        return 0
    print(said, file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
