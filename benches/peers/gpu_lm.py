"""Tokens per second of a language model's forward pass in transformers on a GPU, a line of JSON for each way.

  resid    up to and including block --stop-at-layer, by cutting the list of decoder layers and leaving the final
           norm out: what capturing the residual stream after that block costs at best
  logits   the whole model with its head for every position
  losses   … and the cross-entropy of every next token

Weights and activations are in --dtypes, attention is scaled_dot_product_attention, without a cache for generation,
under inference_mode. Prompts are random ids of the full context. `seconds` is the median, by CUDA events.
"""
import torch

from gpu_common import Bench, parser


def options():
    p = parser(__doc__)
    p.add_argument("--model", required=True, help="a local Hugging Face folder")
    p.add_argument("--sizes", default="8x128,64x128,16x1024", help="prompts x tokens of a call, several with commas")
    p.add_argument("--stop-at-layer", type=int, default=0, metavar="L")
    p.add_argument("--dtypes", default="bfloat16,float32", help="several with commas")
    args = p.parse_args()
    args.sizes = [tuple(int(n) for n in size.split("x")) for size in args.sizes.split(",")]
    return args


def load(args, bench, dtype):
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(args.model, dtype=getattr(torch, dtype), attn_implementation="sdpa")
    return model.to(bench.device).eval()


def cut(model, last):
    """The model without its head, its final norm, and the blocks behind `last`."""
    run = model.base_model
    layers, norm = next(pair for pair in (("layers", "norm"), ("layers", "final_layer_norm"), ("h", "ln_f"))
                        if hasattr(run, pair[0]) and hasattr(run, pair[1]))
    blocks = getattr(run, layers)
    if not 0 <= last < len(blocks):
        raise ValueError(f"the model has blocks 0 to {len(blocks) - 1}")
    setattr(run, layers, blocks[: last + 1])
    setattr(run, norm, torch.nn.Identity())
    return run


def passes(bench, model, size, way):
    batch, context = size
    most = getattr(model.config, "max_position_embeddings", None)
    if most and context > most:
        raise ValueError(f"the model has {most} positions")
    ids = torch.randint(0, model.config.vocab_size, size, device=bench.device)

    def run():
        out = model(input_ids=ids, use_cache=False)
        if way == "losses":
            logits = out.logits[:, :-1].flatten(0, 1).float()
            return torch.nn.functional.cross_entropy(logits, ids[:, 1:].flatten(), reduction="none")
        return out

    with torch.inference_mode():
        facts = bench.seconds(run, most=50, budget=1.0)
    return facts | {"tokens_per_second": batch * context / facts["seconds"]}


def main():
    args = options()
    bench = Bench(torch, args)
    bench.machine("transformers")
    for dtype in args.dtypes.split(","):
        models = {}

        def loaded():
            models["whole"] = load(args, bench, dtype)
            return {"parameters": sum(w.numel() for w in models["whole"].parameters())}

        bench.line({"what": "load", "dtype": dtype, "model": args.model}, loaded)
        if "whole" not in models:
            continue
        facts = {"dtype": dtype, "model": models["whole"].config.model_type}
        for way in ("logits", "losses", "resid"):
            if way == "resid":
                facts["block"] = args.stop_at_layer
            for size in args.sizes:
                def measure():
                    if way == "resid" and "cut" not in models:
                        models["cut"] = cut(models["whole"], args.stop_at_layer)
                    return passes(bench, models["cut" if way == "resid" else "whole"], size, way)

                bench.line(facts | {"what": way, "batch": size[0], "context": size[1]}, measure)


if __name__ == "__main__":
    main()
