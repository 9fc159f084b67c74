"""Run benchmarks: `python -m bench [NAME ...] [--quick] [--full] [--save]`.

NAME is a file such as `bench_encoder`. Prints the table of ratios. With --save, the results are saved as
`bench/results/<machine>-<date>.json`.
"""

from __future__ import annotations

import argparse
import json
import sys
from datetime import datetime, timezone

import pytest

from .compare import earlier_results, report
from .summarise import LATEST, LATEST_ROWS, RESULTS, ROOT, save, summary
from .table import verdicts


def main() -> int:
    parser = argparse.ArgumentParser("python -m bench", description=__doc__)
    parser.add_argument("names", nargs="*", help="files to run, default all")
    parser.add_argument("--quick", action="store_true", help="two rounds of each row")
    parser.add_argument("--full", action="store_true", help="time all of a peer's batches instead of a sample")
    parser.add_argument("--save", action="store_true", help="keep the results of a whole run")
    parser.add_argument("--threads", type=int, default=2, help="of each side")
    options = parser.parse_args()
    if options.save and options.names:
        parser.error("--save keeps whole runs, in whose place a part would stand: leave out the names")
    files = [f"bench/{name.removeprefix('bench/').removesuffix('.py')}.py" for name in options.names] or ["bench"]
    RESULTS.mkdir(exist_ok=True)
    LATEST.unlink(missing_ok=True)
    # The peers' libraries emit warnings, which must not fail the run.
    arguments = [f"--rootdir={ROOT}", *files, "-o", "python_files=bench_*.py", "-o", "filterwarnings=", "-q", "-s"]
    arguments += [f"--benchmark-json={LATEST}", f"--bench-threads={options.threads}"]
    arguments += [flag for flag, is_set in (("--quick", options.quick), ("--full", options.full)) if is_set]
    code = int(pytest.main(arguments))
    if code not in (0, 1):  # nothing ran
        return code
    # Without any test of pytest-benchmark's own, there are rows but no report.
    if not LATEST.exists() or not LATEST.stat().st_size:
        now = datetime.now(timezone.utc).isoformat()
        LATEST.write_text(json.dumps({"datetime": now, "benchmarks": []}))
    benchmark_report = json.loads(LATEST.read_text())
    rows = json.loads(LATEST_ROWS.read_text())
    print(verdicts(rows))
    if options.save and code == 0:
        results = summary(benchmark_report, rows, options.threads)
        print(f"kept as {save(results).relative_to(ROOT)}")
        earlier = earlier_results(results)
        if earlier:
            print(report(earlier[0], results))
    elif options.save:
        print("not kept: a benchmark failed", file=sys.stderr)
    return code


if __name__ == "__main__":
    sys.exit(main())
