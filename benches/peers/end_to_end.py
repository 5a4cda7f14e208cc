"""Tokens per second of SAELens' own training runner: text in, TopK SAE out (f32, CPU).

`LanguageModelSAETrainingRunner` runs unchanged: language model, hook, mixing buffer, trainer. With
--cached, SAELens' `CacheActivationsRunner` first writes activations to disk, and the timed run reads them.

Adapted, and why:
- The model is a local Hugging Face folder, so that nothing is downloaded. SAELens' default route
  (HookedTransformer) accepts only names from TransformerLens' list, so `model_class_name` is
  AutoModelForCausalLM: SAELens hooks the transformers model itself and stops after the hooked block.
  The two routes took the same time on a 135M-parameter Llama (HookedTransformer built by hand).
- The text is a local file, tokenised beforehand with SAELens' `concat_and_batch_sequences`, as its
  documentation advises, and handed over as `override_dataset`: tokenising is not in the time.
- Logging, checkpoints and the final save are off.
- The buffer is two training batches, and a call of the language model captures --prompts contexts.

Time is taken at the end of every step. The first buffer's worth of tokens, which includes start-up and
the first fill, is left out; the rest, language model and refills included, is the figure.
"""
import logging
import tempfile
import time
import warnings

from common import parser, peak_mib, report, start, versions


def options():
    p = parser(__doc__)
    p.add_argument("--model", required=True, help="a local Hugging Face folder")
    p.add_argument("--text", required=True, help="a local text file")
    p.add_argument("--layer", type=int, required=True, help="capture the residual stream after this block")
    p.add_argument("--d-sae", type=int, default=4096)
    p.add_argument("--k", type=int, default=32)
    p.add_argument("--batch", type=int, default=4096, help="tokens per training step")
    p.add_argument("--context", type=int, default=128)
    p.add_argument("--prompts", type=int, default=32, help="contexts per call of the language model")
    p.add_argument("--tokens", type=int, default=65536)
    p.add_argument("--cached", action="store_true")
    args = p.parse_args()
    if args.batch % args.context or args.tokens < 4 * args.batch:
        p.error("--batch must be a multiple of --context, and --tokens at least four batches")
    return args


def tokenised(args, tokenizer):
    """The text as a data set of contexts, each beginning with BOS where the tokenizer has one."""
    from datasets import Dataset
    from sae_lens.tokenization_and_batching import concat_and_batch_sequences

    text = open(args.text, encoding="utf-8").read()[: 16 * args.tokens]
    pieces = (text[i : i + 10_000] for i in range(0, len(text), 10_000))
    ids = (torch.tensor(tokenizer(piece, add_special_tokens=False).input_ids) for piece in pieces)
    rows = concat_and_batch_sequences(ids, args.context, begin_batch_token_id=tokenizer.bos_token_id)
    return Dataset.from_dict({"input_ids": [row.tolist() for row in rows]})


def hook_name(args, config):
    prefix = {"gpt2": "transformer.h", "gpt_neox": "gpt_neox.layers"}.get(config.model_type, "model.layers")
    return f"{prefix}.{args.layer}"


def main():
    import sae_lens
    from sae_lens.config import CacheActivationsRunnerConfig, LanguageModelSAERunnerConfig, LoggingConfig
    from sae_lens.training.sae_trainer import SAETrainer
    from transformers import AutoConfig, AutoTokenizer

    sae_lens.logger.setLevel(logging.ERROR)
    warnings.filterwarnings("ignore")
    config, tokenizer = AutoConfig.from_pretrained(args.model), AutoTokenizer.from_pretrained(args.model)
    data, hook, cached = tokenised(args, tokenizer), hook_name(args, config), {}
    facts = {"model": config.model_type, "hook": hook, "d_in": config.hidden_size, "d_sae": args.d_sae, "k": args.k,
             "batch": args.batch, "context": args.context, "threads": args.threads, "cached": args.cached}
    model = {"model_name": args.model, "model_class_name": "AutoModelForCausalLM", "hook_name": hook, "device": "cpu",
             "context_size": args.context, "dataset_path": "local text"}

    with tempfile.TemporaryDirectory() as folder:
        if args.cached:
            began = time.perf_counter()
            per_call = args.prompts * args.context
            cache = CacheActivationsRunnerConfig(
                **model, model_batch_size=args.prompts, d_in=config.hidden_size, new_cached_activations_path=folder,
                training_tokens=-(-args.tokens // per_call) * per_call,
                buffer_size_gb=(per_call * config.hidden_size * 4 + 1) / 1e9)  # one shard a call
            sae_lens.CacheActivationsRunner(cache, override_dataset=data).run()
            facts["caching_tokens_per_second"] = cache.training_tokens / (time.perf_counter() - began)
            cached = {"use_cached_activations": True, "cached_activations_path": folder}
        runner = sae_lens.LanguageModelSAETrainingRunner(
            LanguageModelSAERunnerConfig(
                sae=sae_lens.TopKTrainingSAEConfig(d_in=config.hidden_size, d_sae=args.d_sae, k=args.k),
                **model, **cached, training_tokens=args.tokens, train_batch_size_tokens=args.batch,
                n_batches_in_buffer=2 * args.batch // args.context, store_batch_size_prompts=args.prompts,
                logger=LoggingConfig(log_to_wandb=False), checkpoint_path=None, output_path=None, seed=args.seed,
                verbose=False),
            override_dataset=data)
        stamps, losses, step = [], [], SAETrainer.step

        def stamped(trainer, batch):
            output = step(trainer, batch)
            losses.append(output.loss.detach())
            stamps.append(time.perf_counter())
            return output

        SAETrainer.step = stamped
        runner.run()

    steps = len(stamps) - 2  # the first buffer is two batches
    report(args, {**facts, "tokens_per_second": steps * args.batch / (stamps[-1] - stamps[1]), "steps": steps,
                  "first_loss": float(losses[0]), "last_loss": float(losses[-1]), "peak_mib": peak_mib(),
                  "versions": versions("sae-lens", "transformer-lens", "transformers")})


if __name__ == "__main__":
    args = options()
    torch = start(args)
    main()
