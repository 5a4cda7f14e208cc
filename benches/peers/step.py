"""Seconds per TopK training step, as each library itself trains it (f32, CPU).

The libraries' own loops run, not a copy of them: sparsify's `Trainer.fit`, SAELens' `SAETrainer.fit`,
dictionary_learning's `TopKTrainer.update`. Only what surrounds a step is replaced: activations come
from a small pool of random batches instead of a language model, and nothing is logged or saved.

  sparsify             default optimiser (schedule-free signum; --sparsify-optimizer adam for Adam).
                       The language model is a stub whose only layer returns the pool's batches.
  saelens              default configuration: dense activations, decoder-norm rescaling, clipping, Adam.
                       (use_sparse_activations cannot train on a CPU with torch 2.15: SparseCPU lacks view.)
  dictionary_learning  default configuration, past its threshold_start_step (as all but the first 1000
                       steps of a run are): threshold average, projection, clipping, Adam.
  torch                not a library: the least one would write by hand (autograd, embedding_bag,
                       fused Adam; no decoder normalisation), as a yardstick.

--auxk turns the auxiliary loss on where it is off by default and makes --dead of the latents dead from
the start (a bias that never fires, a counter past the limit), so that its cost shows. Without it no
latent is dead and the auxiliary loss has nothing to do.

Time runs from one request for a batch to the next, so a step includes everything its loop does.
peak_mib is the process's largest resident set; loaded_mib is what it was before the first tensor.
"""
import contextlib
import os
import sys
import tempfile
import time

from common import parser, peak_mib, report, seconds_per_call, start, versions

LONG_AGO = 1 << 40


def options():
    p = parser(__doc__)
    p.add_argument("--lib", required=True, choices=["sparsify", "saelens", "dictionary_learning", "torch"])
    p.add_argument("--d-in", type=int, default=768)
    p.add_argument("--d-sae", type=int, default=16384)
    p.add_argument("--k", type=int, default=32)
    p.add_argument("--batch", type=int, default=4096, help="tokens per step")
    p.add_argument("--auxk", action="store_true")
    p.add_argument("--dead", type=float, default=0.25, help="share of latents held dead with --auxk")
    p.add_argument("--steps", type=int, default=5, help="timed steps")
    p.add_argument("--warmup", type=int, default=2)
    p.add_argument("--sparsify-optimizer", choices=["signum", "adam"], default="signum")
    return p.parse_args()


class Pool:
    """Hands out random batches in turn and notes the time of each request."""

    def __init__(self, args):
        self.batches = [torch.randn(args.batch, args.d_in) for _ in range(2)]
        self.stamps = []

    def __iter__(self):
        return self

    def __next__(self):
        self.stamps.append(time.perf_counter())
        return self.batches[len(self.stamps) % len(self.batches)]


def kill(args, bias, since_fired):
    """With --auxk: biases that never fire, and counters that say so already."""
    if args.auxk:
        dead = torch.randperm(args.d_sae)[: int(args.dead * args.d_sae)]
        bias.data[dead] = -100.0
        since_fired[dead] = LONG_AGO


def run_sparsify(args, calls):
    os.environ["SPARSIFY_DISABLE_TRITON"] = "1"  # the Triton decoder needs a GPU
    from sparsify import SaeConfig, SaeTrainer, TrainConfig
    from torch import nn
    from types import SimpleNamespace

    loaded = peak_mib()
    pool = Pool(args)

    class Layer(nn.Module):
        def forward(self, x):
            return (next(pool) if self.training else pool.batches[0])[None]

    class Stub(nn.Module):
        def __init__(self):
            super().__init__()
            self.layers, self.device = nn.ModuleList([Layer()]), torch.device("cpu")
            self.config, self.dummy_inputs = SimpleNamespace(num_hidden_layers=1), {"input_ids": torch.zeros(1, 1)}

        @property
        def base_model(self):
            return self

        def forward(self, input_ids):
            return self.layers[0](input_ids)

    tokens = {"input_ids": torch.zeros(args.batch, dtype=torch.long)}
    with tempfile.TemporaryDirectory() as folder:
        config = TrainConfig(SaeConfig(num_latents=args.d_sae, k=args.k), optimizer=args.sparsify_optimizer,
                             auxk_alpha=1 / 32 if args.auxk else 0.0, batch_size=1, layers=[0],
                             log_to_wandb=False, save_every=10**9, save_dir=folder)
        stub = Stub().eval()
        trainer = SaeTrainer(config, [tokens] * calls, stub)
        stub.train()
        (name, coder), = trainer.saes.items()
        kill(args, coder.encoder.bias, trainer.num_tokens_since_fired[name])
        trainer.save = lambda: None
        trainer.fit()
    return pool.stamps, loaded, ("eai-sparsify",)


def run_saelens(args, calls):
    from sae_lens import TopKTrainingSAE, TopKTrainingSAEConfig
    from sae_lens.config import LoggingConfig, SAETrainerConfig
    from sae_lens.training.sae_trainer import SAETrainer

    loaded = peak_mib()
    sae = TopKTrainingSAE(TopKTrainingSAEConfig(d_in=args.d_in, d_sae=args.d_sae, k=args.k))
    pool = Pool(args)
    config = SAETrainerConfig(total_training_samples=calls * args.batch, train_batch_size_samples=args.batch,
                              lr_end=3e-5, logger=LoggingConfig(log_to_wandb=False))
    trainer = SAETrainer(config, sae, pool)
    kill(args, sae.b_enc, trainer.n_forward_passes_since_fired)
    trainer.fit()
    return pool.stamps, loaded, ("sae-lens",)


def run_dictionary_learning(args, calls):
    from dictionary_learning.trainers.top_k import TopKTrainer

    loaded = peak_mib()
    trainer = TopKTrainer(steps=100_000, activation_dim=args.d_in, dict_size=args.d_sae, k=args.k, layer=0,
                          lm_name="none", device="cpu", seed=args.seed)
    pool = Pool(args)
    kill(args, trainer.ae.encoder.bias, trainer.num_tokens_since_fired)
    for i in range(calls):
        trainer.update(trainer.threshold_start_step + i if i else 0, next(pool))  # step 0 sets the bias
    return pool.stamps, loaded, ("dictionary-learning",)


def run_torch(args, calls):
    from torch import nn
    from torch.nn.functional import embedding_bag, linear

    loaded = peak_mib()
    w_dec = nn.Parameter(nn.functional.normalize(torch.randn(args.d_sae, args.d_in)))
    w_enc = nn.Parameter(w_dec.data.clone())
    b_enc, b_dec = nn.Parameter(torch.zeros(args.d_sae)), nn.Parameter(torch.zeros(args.d_in))
    adam = torch.optim.Adam([w_enc, b_enc, w_dec, b_dec], lr=3e-4, fused=True)
    pool = Pool(args)
    since_fired = torch.zeros(args.d_sae)
    kill(args, b_enc, since_fired)
    dead = since_fired.nonzero()[:, 0]  # fixed here; a trainer would count
    for x in (next(pool) for _ in range(calls)):
        pre = linear(x - b_dec, w_enc, b_enc)
        values, latents = pre.topk(args.k, sorted=False)
        error = x - b_dec - embedding_bag(latents, w_dec, per_sample_weights=values.relu(), mode="sum")
        loss = error.square().sum(-1).mean()
        if args.auxk:
            values, at = pre[:, dead].topk(min(args.d_in // 2, len(dead)), sorted=False)
            guess = embedding_bag(dead[at], w_dec, per_sample_weights=values, mode="sum")
            loss = loss + (guess - error.detach()).square().sum(-1).mean() / 32
        loss.backward()
        adam.step()
        adam.zero_grad()
    return pool.stamps, loaded, ()


if __name__ == "__main__":
    args = options()
    torch = start(args)
    run = {"sparsify": run_sparsify, "saelens": run_saelens, "dictionary_learning": run_dictionary_learning,
           "torch": run_torch}[args.lib]
    with contextlib.redirect_stdout(sys.stderr):  # what the libraries print
        # one call more than there are gaps: the last stamp only closes the last step
        stamps, loaded, names = run(args, args.warmup + args.steps + 1)
    median, least, most, n = seconds_per_call(stamps, args.warmup)
    report(args, {
        "lib": args.lib, "d_in": args.d_in, "d_sae": args.d_sae, "k": args.k, "batch": args.batch, "auxk": args.auxk,
        "threads": args.threads, "seconds_per_step": median, "seconds_least": least, "seconds_most": most, "steps": n,
        "tokens_per_second": args.batch / median, "peak_mib": peak_mib(), "loaded_mib": loaded,
        "versions": versions(*names),
    })
