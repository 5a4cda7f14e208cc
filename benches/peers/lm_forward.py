"""Tokens per second of a language model's forward pass in transformers (f32, CPU, inference_mode).

--stop-at-layer L runs up to and including block L, by cutting the list of decoder layers and leaving
the final norm out: what capturing the residual stream after block L costs at best.
--logits runs the whole model with its head for every position.
Prompts are random ids of the full context; attention is transformers' default (sdpa).
"""
import time

from common import parser, peak_mib, report, seconds_per_call, start, versions


def main():
    p = parser(__doc__)
    p.add_argument("--model", required=True, help="a local Hugging Face folder")
    p.add_argument("--batch", type=int, default=8, help="prompts per call")
    p.add_argument("--context", type=int, default=128)
    p.add_argument("--runs", type=int, default=5)
    p.add_argument("--warmup", type=int, default=2)
    what = p.add_mutually_exclusive_group(required=True)
    what.add_argument("--stop-at-layer", type=int, metavar="L")
    what.add_argument("--logits", action="store_true")
    args = p.parse_args()
    torch = start(args)
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(args.model, dtype=torch.float32).eval()
    run, parameters = model, sum(w.numel() for w in model.parameters())
    if not args.logits:
        run = model.base_model
        layers, norm = next(pair for pair in (("layers", "norm"), ("layers", "final_layer_norm"), ("h", "ln_f"))
                            if hasattr(run, pair[0]) and hasattr(run, pair[1]))
        if not 0 <= args.stop_at_layer < len(getattr(run, layers)):
            p.error(f"--stop-at-layer: the model has layers 0 to {len(getattr(run, layers)) - 1}")
        setattr(run, layers, getattr(run, layers)[: args.stop_at_layer + 1])
        setattr(run, norm, torch.nn.Identity())
    ids = torch.randint(0, model.config.vocab_size, (args.batch, args.context))
    stamps = [time.perf_counter()]
    with torch.inference_mode():
        for _ in range(args.warmup + args.runs):
            run(input_ids=ids, use_cache=False)
            stamps.append(time.perf_counter())
    median, least, most, n = seconds_per_call(stamps, args.warmup)
    report(args, {
        "model": model.config.model_type, "parameters": parameters,
        "what": "logits" if args.logits else f"resid_post of block {args.stop_at_layer}", "batch": args.batch,
        "context": args.context, "threads": args.threads, "seconds_per_call": median, "seconds_least": least,
        "seconds_most": most, "runs": n, "tokens_per_second": args.batch * args.context / median,
        "peak_mib": peak_mib(), "versions": versions("transformers"),
    })


if __name__ == "__main__":
    main()
