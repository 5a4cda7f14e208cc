"""backpropd beside its peers: the same work in turn, on the same machine, in the same minutes.

Every line is a number of pairs. In each pair backpropd's own command and the peer's script run one after
the other, and their ratio is taken; printed are the medians of both and of the ratios, with the least and
the greatest ratio, so that what the machine does from minute to minute mostly cancels out.

  product   the encoder product alone: `bench step` beside OpenBLAS (the one that numpy carries)
  step      a TopK training step: `bench step` beside step.py of sparsify, SAELens, dictionary_learning, torch
  auxk      the same with AuxK and every eighth latent dead
  lm        a language model's forward pass: `bench lm` beside lm_forward.py
  live      end to end, text to SAE: `train` beside end_to_end.py
  cached    the same from cached activations
"""
import argparse
import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time

HERE = pathlib.Path(__file__).resolve().parent
QUICKSTART = HERE.parent.parent / "examples" / "quickstart"
PRODUCT = """
import json, os, sys, time
n, d, f = map(int, sys.argv[1:])
import numpy
rng = numpy.random.default_rng(0)
x, w, out = rng.random((n, d), "f4") - 0.5, rng.random((f, d), "f4") - 0.5, numpy.zeros((n, f), "f4")
times = []
for _ in range(8):
    began = time.perf_counter()
    numpy.matmul(x, w.T, out=out)
    times.append(time.perf_counter() - began)
print(json.dumps({"seconds": sorted(times[1:])[3]}))
"""


def options():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("what", nargs="+", choices=["product", "step", "auxk", "lm", "live", "cached"])
    p.add_argument("--backpropd", default="target/release/backpropd", help="the program")
    p.add_argument("--pairs", type=int, default=5)
    p.add_argument("--libs", nargs="+", default=["sparsify", "dictionary_learning", "saelens"])
    p.add_argument("--d-in", type=int, default=768)
    p.add_argument("--d-sae", type=int, default=16384)
    p.add_argument("--k", type=int, default=32)
    p.add_argument("--batch", type=int, default=4096)
    p.add_argument("--model", default=str(QUICKSTART / "model"))
    p.add_argument("--text", default=str(QUICKSTART / "austen.txt"))
    p.add_argument("--layer", type=int, default=2)
    p.add_argument("--contexts", type=int, default=32, help="lm: contexts of a call")
    p.add_argument("--tokens", type=int, default=65536, help="live, cached: tokens of a run")
    p.add_argument("--threads", type=int, default=os.cpu_count())
    return p.parse_args()


def call(command, args):
    threads = {name: str(args.threads) for name in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS")}
    done = subprocess.run([str(c) for c in command], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                          env={**os.environ, **threads})
    if done.returncode:
        sys.exit(f"{' '.join(map(str, command))}\n{done.stderr}")
    return json.loads(done.stdout.strip().splitlines()[-1])


def pairs(args, name, ours, theirs):
    """One line: seconds of both, and how many times as long the peer takes."""
    mine, other = [], []
    for _ in range(args.pairs):
        mine.append(ours())
        other.append(theirs())
    ratios = sorted(b / a for a, b in zip(mine, other))
    print(f"| {name} | {statistics.median(mine):.4g} s | {statistics.median(other):.4g} s "
          f"| {statistics.median(ratios):.2f} ({ratios[0]:.2f} – {ratios[-1]:.2f}) |", flush=True)


def peer(args, script, *more):
    return call([sys.executable, HERE / script, "--threads", args.threads, "--json", *more], args)


def shape(args):
    return ["--d-in", args.d_in, "--d-sae", args.d_sae, "--k", args.k, "--batch", args.batch]


def bench_step(args, *more):
    return call([args.backpropd, "bench", "step", *shape(args), "--threads", args.threads, "--json", *more], args)


def product(args):
    pairs(args, "product / OpenBLAS", lambda: bench_step(args)["product_seconds"],
          lambda: call([sys.executable, "-c", PRODUCT, args.batch, args.d_in, args.d_sae], args)["seconds"])


def step(args, auxk):
    for lib in args.libs:
        more, theirs = (["--auxk"], ["--auxk", "--dead", 0.125]) if auxk else ([], [])
        pairs(args, f"step{' with AuxK' * auxk} / {lib}", lambda: bench_step(args, *more)["step_seconds"],
              lambda: peer(args, "step.py", "--lib", lib, *shape(args), *theirs)["seconds_per_step"])


def lm(args):
    for name, what in [(f"to block {args.layer}", ["--stop-at-layer", args.layer]), ("to logits", ["--logits"])]:
        common = ["--model", args.model, "--batch", args.contexts, *what]
        ours = [args.backpropd, "bench", "lm", *common, "--threads", args.threads, "--json"]
        pairs(args, f"language model {name} / transformers", lambda: call(ours, args)["seconds"],
              lambda: peer(args, "lm_forward.py", *common)["seconds_per_call"])


def train(args, folder, cache):
    """Seconds per step of `backpropd train`, from the second step (the first window) to the last."""
    run = pathlib.Path(folder, "run.toml")
    run.write_text(f"""
name = "compare"
[model]
path = {json.dumps(os.path.abspath(args.model))}
hooks = ["blocks.{args.layer}.hook_resid_post"]
[data]
path = {json.dumps(os.path.abspath(args.text))}
context_size = 128
holdout = 0.002
[activations]
window_batches = 2
lm_batch = 32
{f'cache = "{folder}/cache"' if cache else ''}
[sae]
variant = "topk"
d_sae = {args.d_sae}
k = {args.k}
[training]
tokens = {args.tokens}
batch_size = {args.batch}
[eval]
contexts = 1
[checkpoints]
every = 0
""")
    with tempfile.TemporaryDirectory() as out:
        command = [args.backpropd, "train", run, "--json", "--threads", str(args.threads), "--out", f"{out}/run"]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
            stamps = [time.perf_counter() for line in child.stdout if json.loads(line)["kind"] == "step"]
        if child.returncode:
            sys.exit(f"backpropd train ended with {child.returncode}")
    return (stamps[-1] - stamps[1]) / (len(stamps) - 2)


def end_to_end(args, cache):
    with tempfile.TemporaryDirectory() as folder:
        train(args, folder, cache)  # tokenises, and writes the cache
        theirs = ["--model", args.model, "--text", args.text, "--layer", args.layer, "--d-sae", args.d_sae, "--k",
                  args.k, "--batch", args.batch, "--tokens", args.tokens, *(["--cached"] if cache else [])]
        pairs(args, f"a step, {'cached' if cache else 'live'} / SAELens", lambda: train(args, folder, cache),
              lambda: args.batch / peer(args, "end_to_end.py", *theirs)["tokens_per_second"])


def main():
    args = options()
    print(f"| {args.pairs} pairs | backpropd | peer | peer / backpropd |\n|---|---|---|---|", flush=True)
    work = {"product": lambda: product(args), "step": lambda: step(args, False), "auxk": lambda: step(args, True),
            "lm": lambda: lm(args), "live": lambda: end_to_end(args, False), "cached": lambda: end_to_end(args, True)}
    for what in args.what:
        work[what]()


if __name__ == "__main__":
    main()
