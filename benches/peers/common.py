"""What the peer benchmarks share: threads, memory, medians, printing."""
import argparse
import importlib.metadata
import json
import os
import platform
import resource
import statistics
import sys

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # models and text are local folders
os.environ.setdefault("WANDB_MODE", "disabled")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")


def parser(doc):
    p = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--threads", type=int, default=2)
    p.add_argument("--seed", type=int, default=0)
    p.add_argument("--json", action="store_true", help="one JSON object instead of a table")
    return p


def start(args):
    """Thread counts are fixed before torch is imported, so that its pools agree with them."""
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ[name] = str(args.threads)
    import torch

    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    return torch


def peak_mib():
    """The process's largest resident set so far (Linux counts it in KiB, macOS in bytes)."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (1 << 20 if sys.platform == "darwin" else 1 << 10)


def seconds_per_call(stamps, warmup):
    """Median, least and most of the gaps between time stamps, without the first `warmup` gaps."""
    gaps = [b - a for a, b in zip(stamps, stamps[1:])][warmup:]
    return statistics.median(gaps), min(gaps), max(gaps), len(gaps)


def versions(*names):
    found = {"python": platform.python_version()}
    for name in ("torch", *names):
        found[name] = importlib.metadata.version(name)
    return found


def report(args, facts):
    if args.json:
        print(json.dumps(facts))
        return
    for key, value in facts.items():
        if isinstance(value, dict):
            value = ", ".join(f"{k} {v}" for k, v in value.items())
        print(f"{key:20} {value:,.4g}" if isinstance(value, float) else f"{key:20} {value}")
