"""Loads exported SAEs with the libraries they are meant for and compares what they compute.

    python check_exports.py EXPORT_DIR PROBE.safetensors

EXPORT_DIR/saelens                        SAELens'  SAE.load_from_disk
EXPORT_DIR/sparsify                       sparsify's SparseCoder.load_from_disk (it, or the one folder in it)
EXPORT_DIR/dictionary_learning/trainer_0  dictionary_learning's load_dictionary

The probe holds x [B, d], feature_acts [B, F] and sae_out [B, d] in f32: what the exporter says the SAE
computes with the decoder norms folded into the encoder, which is what all three formats hold.
Each row gives the largest absolute difference over the largest absolute value expected. The exit code
is 1 if a difference passes --tolerance, a format fails to load, or there was no format to check.
"""
import argparse
import contextlib
import os
import pathlib
import sys
import traceback

os.environ["SPARSIFY_DISABLE_TRITON"] = "1"  # the Triton decoder needs a GPU
os.environ.setdefault("HF_HUB_OFFLINE", "1")


def saelens(folder, x):
    from sae_lens import SAE

    sae = SAE.load_from_disk(folder, device="cpu")
    acts = sae.encode(x)
    skip = getattr(sae, "W_skip", None) is not None
    return acts, sae(x) if skip else sae.decode(acts), f"{type(sae).__name__}, {sae.cfg.dtype}"


def sparsify(folder, x):
    from sparsify import SparseCoder

    if not (folder / "cfg.json").exists():
        folder, = (f for f in folder.iterdir() if f.is_dir())
    sae = SparseCoder.load_from_disk(folder)
    x = x.to(sae.dtype)
    top = sae.encode(x)
    acts = x.new_zeros(len(x), sae.num_latents).scatter_(1, top.top_indices, top.top_acts)
    out = sae.decode(top.top_acts, top.top_indices)
    return acts, out if sae.W_skip is None else out + x @ sae.W_skip.mT, f"SparseCoder, k {sae.cfg.k}"


def dictionary_learning(folder, x):
    from dictionary_learning.utils import load_dictionary

    sae, _ = load_dictionary(str(folder), "cpu")
    acts = sae.encode(x)
    return acts, sae.decode(acts), type(sae).__name__


FORMATS = {"saelens": saelens, "sparsify": sparsify, "dictionary_learning/trainer_0": dictionary_learning}


def difference(got, want):
    if got.shape != want.shape:
        raise ValueError(f"shape {tuple(got.shape)}, expected {tuple(want.shape)}")
    return ((got.double() - want.double()).abs().max() / want.double().abs().max()).item()


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("export_dir", type=pathlib.Path)
    p.add_argument("probe", type=pathlib.Path)
    p.add_argument("--tolerance", type=float, default=1e-5)
    args = p.parse_args()
    import torch
    from safetensors.torch import load_file

    torch.set_num_threads(2)
    probe = load_file(args.probe)
    checked = failed = 0
    print(f"{'format':<31}{'feature_acts':>13}{'sae_out':>13}  verdict")
    for name, run in FORMATS.items():
        folder = args.export_dir / name
        if not folder.is_dir():
            print(f"{name:<31}{'-':>13}{'-':>13}  skipped: not exported")
            continue
        checked += 1
        try:
            with torch.inference_mode(), contextlib.redirect_stdout(sys.stderr):
                acts, out, what = run(folder, probe["x"])
            errors = difference(acts, probe["feature_acts"]), difference(out, probe["sae_out"])
        except Exception as e:
            traceback.print_exc()
            failed += 1
            why = (str(e).splitlines() or [""])[0][:200]
            print(f"{name:<31}{'-':>13}{'-':>13}  FAILED: {type(e).__name__}: {why}")
            continue
        good = all(e <= args.tolerance for e in errors)  # false for NaN
        failed += not good
        print(f"{name:<31}{errors[0]:>13.2e}{errors[1]:>13.2e}  {'ok' if good else 'FAILED'} ({what})")
    if not checked:
        print(f"nothing to check in {args.export_dir}")
    return 1 if failed or not checked else 0


if __name__ == "__main__":
    sys.exit(main())
