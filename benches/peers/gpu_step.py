"""Seconds per TopK training step in PyTorch on a GPU, a line of JSON for each way and shape.

  mm_bf16            the encoder product alone: torch.mm of bf16 factors to a bf16 result, x [batch, d_in] and
                     w [d_sae, d_in] both there already. What cuBLASLt makes of it.
  topk_f32           a step as SAELens' trainer makes it by default (6.54: TopKTrainingSAE, SAETrainer): one dense
                     encoder matmul, pre-activations times decoder norms, topk, scatter into dense activations,
                     dense decode, the mean over tokens of the squared error, statistics of what fired, the check
                     for dead latents (there are none, so no auxiliary loss), autograd, clipping to 1, Adam.
                     Written anew in the fewest lines; f32 throughout, and PyTorch's default for it: no TF32.
  topk_tf32          the same with TF32 matmuls (torch.set_float32_matmul_precision("high")).
  topk_bf16          the same in bf16 autocast, with the fused Adam.
  topk_bf16_compile  … and forward and backward through torch.compile. Compiling is not in the time, it is in
                     took_seconds; it needs Triton and a C compiler.
  saelens            the trainer of sae_lens itself, where it is installed; f32.

Ways come in this order, each for all shapes, and what would begin after --seconds is skipped: compiling is last.
Activations are random and on the GPU already. `seconds` is the median, by CUDA events.
"""
import contextlib
import itertools

import torch

from gpu_common import Bench, parser


def options():
    p = parser(__doc__)
    p.add_argument("--shapes", default="768/16384/32", help="d_in/d_sae/k, several with commas")
    p.add_argument("--batch", type=int, default=4096, help="tokens per step")
    p.add_argument("--only", help="ways, with commas; default all")
    args = p.parse_args()
    args.shapes = [tuple(int(n) for n in shape.split("/")) for shape in args.shapes.split(",")]
    return args


def mm(bench, args, d_in, d_sae):
    x = torch.randn(args.batch, d_in, device=bench.device, dtype=torch.bfloat16)
    w = torch.randn(d_sae, d_in, device=bench.device, dtype=torch.bfloat16)
    out = torch.empty(args.batch, d_sae, device=bench.device, dtype=torch.bfloat16)
    facts = bench.seconds(lambda: torch.mm(x, w.t(), out=out), warmup=10, most=100, budget=0.5)
    return facts | {"tflops": 2e-12 * args.batch * d_in * d_sae / facts["seconds"]}


class Sae(torch.nn.Module):
    """Dense TopK with decoder-norm rescaling; matrices as SAELens has them: [d_in, d_sae], [d_sae, d_in]."""

    def __init__(self, d_in, d_sae, k, device):
        super().__init__()
        w = torch.nn.functional.normalize(torch.randn(d_sae, d_in, device=device)) * 0.1
        self.k, self.w_dec = k, torch.nn.Parameter(w)
        self.w_enc = torch.nn.Parameter(w.t().contiguous())
        self.b_enc = torch.nn.Parameter(torch.zeros(d_sae, device=device))
        self.b_dec = torch.nn.Parameter(torch.zeros(d_in, device=device))

    def forward(self, x):
        """The loss, and how often each latent fired."""
        norms = self.w_dec.norm(dim=-1)
        keys = ((x - self.b_dec) @ self.w_enc + self.b_enc) * norms
        values, latents = keys.topk(self.k, dim=-1, sorted=False)
        acts = torch.zeros_like(keys).scatter(-1, latents, values.relu())
        out = (acts * (1 / norms)) @ self.w_dec + self.b_dec
        loss = (out.float() - x).square().sum(-1).mean()
        with torch.no_grad():
            fired = acts.bool().float().sum(0)
        return loss, fired


def topk(bench, args, shape, autocast=False, compiled=False, tf32=False):
    d_in, d_sae, k = shape
    sae = Sae(d_in, d_sae, k, bench.device)
    forward = sae
    if compiled:
        torch._dynamo.reset()  # each shape is compiled as the only one
        forward = torch.compile(sae, dynamic=False)
    fused = {"fused": True} if autocast else {}
    adam = torch.optim.Adam(sae.parameters(), lr=3e-4, betas=(0.9, 0.999), **fused)
    x = torch.randn(args.batch, d_in, device=bench.device)
    since_fired, counts = (torch.zeros(d_sae, device=bench.device) for _ in range(2))

    def cast():
        on = torch.autocast(bench.device.type, dtype=torch.bfloat16)
        return on if autocast else contextlib.nullcontext()

    def step():
        nonlocal since_fired, counts
        if int((since_fired > 1000).sum()):
            raise RuntimeError("latents died: the auxiliary loss is not measured here")
        with cast():
            loss, fired = forward(x)
        with torch.no_grad():
            since_fired = torch.where(fired > 0, 0.0, since_fired + 1)
            counts += fired
        loss.backward()
        torch.nn.utils.clip_grad_norm_(sae.parameters(), 1.0)
        adam.step()
        adam.zero_grad()

    torch.set_float32_matmul_precision("high" if tf32 else "highest")
    try:
        facts = bench.seconds(step)
    finally:
        torch.set_float32_matmul_precision("highest")
    return facts | {"tokens_per_second": args.batch / facts["seconds"]}


def saelens(bench, args, shape):
    from sae_lens import TopKTrainingSAE, TopKTrainingSAEConfig
    from sae_lens.config import LoggingConfig, SAETrainerConfig
    from sae_lens.training.sae_trainer import SAETrainer

    d_in, d_sae, k = shape
    name, calls = str(bench.device), 10_000  # more steps than are made
    x = torch.randn(args.batch, d_in, device=bench.device)
    sae = TopKTrainingSAE(TopKTrainingSAEConfig(d_in=d_in, d_sae=d_sae, k=k, device=name))
    config = SAETrainerConfig(total_training_samples=calls * args.batch, train_batch_size_samples=args.batch,
                              device=name, lr_end=3e-5, logger=LoggingConfig(log_to_wandb=False))
    trainer = SAETrainer(config, sae, itertools.repeat(x))

    def step():
        trainer.step(x)
        trainer.n_training_steps += 1

    facts = bench.seconds(step)
    return facts | {"tokens_per_second": args.batch / facts["seconds"]}


if __name__ == "__main__":
    args = options()
    bench = Bench(torch, args)
    ways = {
        "mm_bf16": lambda shape: mm(bench, args, *shape[:2]),
        "topk_f32": lambda shape: topk(bench, args, shape),
        "topk_tf32": lambda shape: topk(bench, args, shape, tf32=True),
        "topk_bf16": lambda shape: topk(bench, args, shape, autocast=True),
        "saelens": lambda shape: saelens(bench, args, shape),
        "topk_bf16_compile": lambda shape: topk(bench, args, shape, autocast=True, compiled=True),
    }
    chosen = args.only.split(",") if args.only else list(ways)
    bench.machine()
    for way in chosen:
        for shape in args.shapes:
            d_in, d_sae, k = shape
            facts = {"what": way, "d_in": d_in, "d_sae": d_sae, "k": k, "batch": args.batch}
            bench.line(facts, lambda: ways[way](shape))
