"""What the GPU scripts share: seconds by CUDA events, a limit of time, and guards, so that what
fails says so in its line of JSON and the rest runs. `--device cpu` is for trying the scripts out."""
import argparse
import gc
import json
import statistics
import time

from common import versions  # which also keeps Hugging Face's libraries off the network


def parser(doc):
    p = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--device", default="cuda", help="cuda, cuda:N, or cpu")
    p.add_argument("--seconds", type=float, default=40.0, help="what would begin later than this is skipped")
    p.add_argument("--seed", type=int, default=0)
    return p


class Bench:
    def __init__(self, torch, args):
        self.torch, device = torch, torch.device(args.device)
        self.cuda = device.type == "cuda"
        self.device = torch.device("cuda", device.index or 0) if self.cuda else device
        self.end = time.monotonic() + args.seconds
        torch.manual_seed(args.seed)
        if self.cuda:
            torch.cuda.set_device(self.device)

    def machine(self, *names):
        """One line about where the figures come from."""
        facts = {"what": "machine", "device": str(self.device)}
        if self.cuda:
            found = self.torch.cuda.get_device_properties(self.device)
            facts |= {"gpu": found.name, "memory_gib": found.total_memory / 2**30, "cuda": self.torch.version.cuda}
        self.line(facts, lambda: {"versions": versions(*names)})

    def line(self, facts, measure):
        """Prints `facts` with what `measure` adds, or with why it could not."""
        facts = dict(facts)
        if time.monotonic() > self.end:
            facts["skipped"] = "out of time"
        else:
            if self.cuda:
                self.torch.cuda.reset_peak_memory_stats()
            began = time.monotonic()
            try:
                facts |= measure()
            except Exception as error:  # a failure is a result, and must not end the others
                words = (str(error).strip() or repr(error)).splitlines()
                facts["error"] = f"{type(error).__name__}: {words[0]}"[:400]
            if self.cuda:
                facts["peak_mib"] = self.torch.cuda.max_memory_allocated() / 2**20
            facts["took_seconds"] = round(time.monotonic() - began, 2)
            # The frames of an error hold tensors until here.
            gc.collect()
            if self.cuda:
                self.torch.cuda.empty_cache()
        print(json.dumps(facts), flush=True)

    def wait(self):
        if self.cuda:
            self.torch.cuda.synchronize()

    def stamp(self):
        if not self.cuda:
            return time.perf_counter()
        event = self.torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def seconds(self, work, warmup=3, most=20, budget=2.0):
        """Median, least and most seconds of a call of `work`, in a row without waits in between: at
        least 3 calls, at most `most`, about as many as fit `budget` seconds."""
        for _ in range(warmup):
            work()
        self.wait()
        began = time.perf_counter()
        work()
        self.wait()
        calls = int(budget / max(time.perf_counter() - began, 1e-6))
        stamps = [self.stamp()]
        for _ in range(max(3, min(most, calls))):
            work()
            stamps.append(self.stamp())
        self.wait()
        if self.cuda:
            gaps = [a.elapsed_time(b) / 1e3 for a, b in zip(stamps, stamps[1:])]
        else:
            gaps = [b - a for a, b in zip(stamps, stamps[1:])]
        return {"seconds": statistics.median(gaps), "seconds_least": min(gaps), "seconds_most": max(gaps),
                "calls": len(gaps)}
