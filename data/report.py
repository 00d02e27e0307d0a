"""Several runs of hsd.py in one page: those that differ in the seed alone are drawn as a band.

    python data/report.py runs/hsd runs/grpo ... --out report.html

It reads config.json and metrics.jsonl of each folder; markup, style and script are page.html's.
"""

import argparse
import json
import sys
from pathlib import Path

# Fields in which two runs may differ and still be the same method under another seed.
NO_LABEL = {"seed", "out", "overwrite", "resume", "save_every", "torch", "transformers"}


def read_run(folder):
    """{name, config, rows} of a run's folder. Raises ValueError, with the folder, if it is none."""
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        lines = (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
        rows = [json.loads(line) for line in lines]
        own = {name: value for name, value in config.items() if name not in NO_LABEL}
    except (OSError, ValueError, AttributeError) as error:
        raise ValueError(f"no run in {folder}: {error}") from None
    return {"name": folder.name, "config": own, "rows": rows}


def label_runs(runs):
    """Gives each run a label: the fields in which the runs differ, or the method."""
    for run in runs:
        own = run["config"].items()
        differ = [f"{k} {v}" for k, v in own if any(r["config"].get(k) != v for r in runs)]
        run["label"] = ", ".join(differ) or run["config"]["method"]


def page_of(runs):
    """The page, as text. A "<" of the data cannot end the script that it lies in."""
    names = ", ".join(run["name"] for run in runs)
    data = json.dumps({"title": f"Runs: {names}", "runs": runs}).replace("<", "\\u003c")
    template = Path(__file__).resolve().parent / "page.html"
    return template.read_text(encoding="utf-8").replace("__DATA__", data)


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("runs", nargs="+", type=Path, help="folders of runs")
    parser.add_argument("--out", type=Path, default=Path("report.html"), help="the page to write")
    args = parser.parse_args()
    try:
        runs = [read_run(folder) for folder in args.runs]
        label_runs(runs)
        args.out.write_text(page_of(runs), encoding="utf-8")
    except (ValueError, OSError) as error:
        print(f"report.py: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    print(f"wrote {args.out}")


if __name__ == "__main__":
    main()
