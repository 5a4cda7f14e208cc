//! What the forward pass of a language model promises, on the models of `tests/data/lm`.

use backpropd::device::Device;
use backpropd::device::cpu::Cpu;
use backpropd::device::lm::NO_TARGET;
use backpropd::device::reference::Reference;
use backpropd::domain::{Code, Result};
use backpropd::lm::{End, Hook, HookPoint, Lm, Tokens};
use std::collections::BTreeMap;
use std::path::PathBuf;

fn folder(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("tests/data/lm")
        .join(name)
}

/// One model of every way to compute a block.
const MODELS: [&str; 6] = ["gpt2", "neox", "llama", "gemma2", "gemma3-text", "olmo2"];

fn ids(len: usize, salt: u32) -> Vec<u32> {
    (0..len as u32)
        .map(|i| (i * 37 + salt * 101) % 512)
        .collect()
}

/// Values at every hook point, and the losses.
fn everything(
    device: &Cpu,
    lm: &mut Lm<Cpu>,
    tokens: &Tokens,
) -> (BTreeMap<HookPoint, Vec<f32>>, Vec<f64>) {
    let hooks = lm.spec().hook_points();
    let mut values = BTreeMap::new();
    let mut losses = vec![0.0; tokens.rows()];
    let mut at = |index: usize, value: &mut Vec<f32>, _: usize| {
        values.insert(hooks[index], value.clone());
        Ok(())
    };
    let end = End::Losses {
        targets: &tokens.next(),
        out: &mut losses,
    };
    lm.forward(device, tokens, &hooks, &mut at, end).unwrap();
    (values, losses)
}

/// behaviour: engine-03
#[test]
fn a_context_has_the_same_bits_alone_in_a_batch_padded_and_on_any_number_of_threads() {
    for name in MODELS {
        let (length, width) = (21, 30);
        let real = ids(length, 1);
        let device = Cpu::new(1);
        let mut lm = Lm::load(&device, &folder(name)).unwrap();
        let d = lm.spec().d_model;
        let alone = Tokens::new(&real, 1, length).unwrap();
        let (expected, expected_losses) = everything(&device, &mut lm, &alone);

        // Twelve contexts; the real one stands padded before and behind.
        for (threads, padding) in [(1, 0), (2, 0), (3, 9), (2, 4)] {
            let (mut all, mut mask) = (Vec::new(), Vec::new());
            for context in 0..12 {
                if context == 7 {
                    all.extend(ids(padding, 3));
                    all.extend(&real);
                    all.extend(ids(width - length - padding, 4));
                    mask.extend((0..width).map(|i| (padding..padding + length).contains(&i)));
                } else {
                    all.extend(ids(width, context));
                    mask.extend(vec![true; width]);
                }
            }
            let batch = Tokens::masked(&all, &mask, 12, width).unwrap();
            let device = Cpu::new(threads);
            let mut lm = Lm::load(&device, &folder(name)).unwrap();
            let (values, losses) = everything(&device, &mut lm, &batch);
            let first = 7 * width + padding;
            for (point, expected) in &expected {
                let got = &values[point][first * d..(first + length) * d];
                assert!(
                    got == expected,
                    "{name} {point} with {threads} threads, padding {padding}"
                );
                assert!(
                    values[point].iter().all(|v| v.is_finite()),
                    "{name} {point}"
                );
            }
            assert_eq!(losses[first..first + length], expected_losses, "{name}");
        }
    }
}

#[test]
fn hook_points_are_the_residual_stream_and_what_is_added_to_it() {
    for name in MODELS {
        let device = Cpu::new(2);
        let mut lm = Lm::load(&device, &folder(name)).unwrap();
        let tokens = Tokens::new(&ids(24, 2), 2, 12).unwrap();
        let (values, _) = everything(&device, &mut lm, &tokens);
        for layer in 0..lm.spec().layers() {
            let at = |hook| values.get(&HookPoint { layer, hook });
            let sum = |parts: &[&Vec<f32>]| -> Vec<f32> {
                (0..parts[0].len())
                    .map(|i| parts[1..].iter().fold(parts[0][i], |sum, p| sum + p[i]))
                    .collect()
            };
            let (pre, post) = (at(Hook::ResidPre).unwrap(), at(Hook::ResidPost).unwrap());
            let (attn, mlp) = (at(Hook::AttnOut).unwrap(), at(Hook::MlpOut).unwrap());
            assert_eq!(&sum(&[pre, attn, mlp]), post, "{name} {layer}");
            match at(Hook::ResidMid) {
                Some(mid) => assert_eq!(&sum(&[pre, attn]), mid, "{name} {layer}"),
                None => assert_eq!(name, "neox"),
            }
        }
    }
}

/// behaviour: engine-04
#[test]
fn a_pass_stops_after_the_last_hook_and_values_do_not_depend_on_which_hooks_are_asked_for() {
    let device = Cpu::new(2);
    let mut lm = Lm::load(&device, &folder("llama")).unwrap();
    let tokens = Tokens::new(&ids(20, 5), 2, 10).unwrap();
    let (values, _) = everything(&device, &mut lm, &tokens);
    let point = lm.spec().hook("blocks.1.hook_attn_out").unwrap();
    let earlier = lm.spec().hook("blocks.0.hook_resid_post").unwrap();
    let size = tokens.rows() * lm.spec().d_model;
    let mut buffers = [device.zeros(size).unwrap(), device.zeros(size).unwrap()];
    lm.capture(&device, &tokens, &[point, earlier], &mut buffers)
        .unwrap();
    assert_eq!(buffers[0], values[&point]);
    assert_eq!(buffers[1], values[&earlier]);

    // An error from a hook ends the pass there and comes back.
    let mut calls = 0;
    let mut at = |_: usize, _: &mut Vec<f32>, _: usize| -> Result<()> {
        calls += 1;
        Err(backpropd::domain::Error::new(
            Code::NonFinite,
            "hook",
            "stop",
        ))
    };
    let error = lm.forward(&device, &tokens, &[point, earlier], &mut at, End::Hooks);
    assert_eq!(error.unwrap_err().code, Code::NonFinite);
    assert_eq!(calls, 1);
}

#[test]
fn a_replaced_value_is_what_the_model_goes_on_with() {
    for name in MODELS {
        let device = Cpu::new(2);
        let mut lm = Lm::load(&device, &folder(name)).unwrap();
        let tokens = Tokens::new(&ids(20, 6), 2, 10).unwrap();
        let targets = tokens.next();
        let d = lm.spec().d_model;
        let mut losses = |name: &str, change: &dyn Fn(&mut [f32])| {
            let hook = lm.spec().hook(name).unwrap();
            let mut out = vec![0.0; 20];
            let end = End::Losses {
                targets: &targets,
                out: &mut out,
            };
            let mut at = |_: usize, value: &mut Vec<f32>, rows: usize| {
                change(&mut value[..rows * d]);
                Ok(())
            };
            lm.forward(&device, &tokens, &[hook], &mut at, end).unwrap();
            out
        };
        let zero = |v: &mut [f32]| v.fill(0.0);
        let clean = losses("blocks.1.hook_mlp_out", &|_| ());
        assert_ne!(losses("blocks.1.hook_mlp_out", &zero), clean, "{name}");
        assert_ne!(losses("blocks.1.hook_attn_out", &zero), clean, "{name}");
        // After the stream is cleared, nothing before it matters.
        let cleared = losses("blocks.2.hook_resid_post", &zero);
        assert_ne!(cleared, clean, "{name}");
        let finite = cleared.iter().all(|loss| loss.is_finite());
        assert!(finite, "{name}: {cleared:?}");
        // A block's output and the next block's input are one stream.
        let double = |v: &mut [f32]| v.iter_mut().for_each(|v| *v *= 2.0);
        let post = losses("blocks.0.hook_resid_post", &double);
        assert_eq!(post, losses("blocks.1.hook_resid_pre", &double), "{name}");
    }
}

#[test]
fn losses_are_those_of_the_logits_and_the_backends_agree() {
    for name in MODELS {
        let (device, oracle) = (Cpu::new(2), Reference::<f64>::new());
        let mut lm = Lm::load(&device, &folder(name)).unwrap();
        let vocab = lm.spec().vocab;
        let tokens = Tokens::new(&ids(26, 7), 2, 13).unwrap();
        let (_, losses) = everything(&device, &mut lm, &tokens);
        let mut logits = device.zeros(26 * vocab).unwrap();
        lm.forward(
            &device,
            &tokens,
            &[],
            &mut |_, _, _| Ok(()),
            End::Logits(&mut logits),
        )
        .unwrap();
        let mut exact = vec![0.0; 26];
        let end = End::Losses {
            targets: &tokens.next(),
            out: &mut exact,
        };
        Lm::load(&oracle, &folder(name))
            .unwrap()
            .forward(&oracle, &tokens, &[], &mut |_, _, _| Ok(()), end)
            .unwrap();
        for (row, target) in tokens.next().into_iter().enumerate() {
            if target == NO_TARGET {
                assert_eq!(losses[row], 0.0);
                continue;
            }
            let logits = &logits[row * vocab..][..vocab];
            let sum: f64 = logits.iter().map(|l| f64::from(*l).exp()).sum();
            let loss = sum.ln() - f64::from(logits[target as usize]);
            assert!(
                (losses[row] - loss).abs() < 1e-5 * (1.0 + loss),
                "{name} {row}"
            );
            assert!(
                (losses[row] - exact[row]).abs() < 1e-4 * (1.0 + loss),
                "{name} {row}"
            );
        }
    }
}

#[test]
fn what_a_model_cannot_take_is_refused_before_anything_runs() {
    let device = Cpu::new(1);
    let mut lm = Lm::load(&device, &folder("gpt2")).unwrap();
    let mut run = |ids: &[u32], hooks: &[HookPoint]| {
        let tokens = Tokens::new(ids, 1, ids.len()).unwrap();
        lm.forward(&device, &tokens, hooks, &mut |_, _, _| Ok(()), End::Hooks)
    };
    let hook = HookPoint {
        layer: 0,
        hook: Hook::ResidPre,
    };
    let error = run(&[1, 512], &[hook]).unwrap_err();
    assert_eq!(error.code, Code::Usage);
    assert!(error.message.contains("512"), "{error}");
    let error = run(&[1; 65], &[hook]).unwrap_err();
    assert!(error.message.contains("65 tokens exceeds"), "{error}");
    let beyond = HookPoint {
        layer: 3,
        hook: Hook::ResidPre,
    };
    let error = run(&[1], &[beyond]).unwrap_err();
    assert_eq!(
        (error.code, error.about.as_str()),
        (Code::HookUnknown, "blocks.3.hook_resid_pre")
    );
    run(&[1; 64], &[hook]).unwrap();

    let spec = Lm::load(&device, &folder("neox")).unwrap().spec().clone();
    for name in [
        "blocks.0.hook_resid_mid",
        "blocks.00.hook_resid_pre",
        "blocks.-1.hook_resid_pre",
        "blocks.99999999999999999999.hook_resid_pre",
        "blocks.0.hook_z",
        "hook_embed",
        "",
    ] {
        let error = spec.hook(name).unwrap_err();
        assert_eq!(
            (error.code, error.about.as_str()),
            (Code::HookUnknown, name)
        );
    }
    assert_eq!(spec.hook_points().len(), 3 * 4);
}

/// behaviour: train-10
#[test]
fn running_out_of_memory_is_a_value_and_the_model_lives_on() {
    let device = Reference::<f32>::with_largest_buffer(40_000);
    let mut lm = Lm::load(&device, &folder("llama")).unwrap();
    let hook = HookPoint {
        layer: 0,
        hook: Hook::ResidPost,
    };
    let mut run = |batch: usize| {
        let tokens = Tokens::new(&ids(batch * 16, 1), batch, 16).unwrap();
        lm.forward(&device, &tokens, &[hook], &mut |_, _, _| Ok(()), End::Hooks)
    };
    assert_eq!(run(100).unwrap_err().code, Code::OutOfMemory);
    run(2).unwrap();
    let small = Reference::<f32>::with_largest_buffer(1000);
    let Err(error) = Lm::load(&small, &folder("llama")) else {
        panic!("the weights cannot fit")
    };
    assert_eq!(error.code, Code::OutOfMemory);
}

/// behaviour: engine-08
#[test]
fn the_description_agrees_with_the_files() {
    for name in MODELS {
        let device = Cpu::new(1);
        let lm = Lm::load(&device, &folder(name)).unwrap();
        let stored = backpropd::tensorfile::TensorFile::open(
            folder(name).join("model.safetensors"),
            backpropd::tensorfile::Codes::MODEL,
        )
        .unwrap();
        let elements = |name: &str| stored.tensor(name).unwrap().elements();
        let total: usize = stored.names().map(elements).sum();
        assert_eq!(lm.spec().parameters(), total, "{name}");
    }
}
