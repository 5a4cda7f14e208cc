//! The order of rows: complete, reproducible, resumable.

use super::*;
use crate::data::Context;
use crate::device::Device;
use crate::device::cpu::Cpu;
use crate::device::reference::Reference;
use crate::device::sae::Rows;
use crate::domain::random::Stream;
use crate::domain::{Code, Error, Result};
use std::sync::OnceLock;

/// Contexts of eight tokens of which some, or none, are trained on.
pub(super) fn contexts(count: u64) -> Vec<Context> {
    let stream = Stream::new(5, "test");
    let context = |index| {
        let stream = stream.child(index);
        let ids = (0..8).map(|p| stream.at(p) as u32 % 100).collect();
        let valid: Vec<bool> = (0..8)
            .map(|p| index % 7 != 3 && stream.uniform(100 + p) < 0.7)
            .collect();
        Context::new(index, ids, &valid)
    };
    (0..count).map(context).collect()
}

pub(super) fn site(hook: &str, d_in: usize) -> Site {
    Site {
        hook: hook.into(),
        d_in,
    }
}

type Fault = Box<dyn FnMut(&[Context]) -> Result<()>>;

/// Rows that say where they come from: `[context, position, id]`, and their negation at a
/// second site.
struct Tagged {
    sites: Vec<Site>,
    fault: Fault,
}

impl Tagged {
    fn failing(fault: impl FnMut(&[Context]) -> Result<()> + 'static) -> Self {
        Self {
            sites: vec![site("tag", 3), site("negated", 3)],
            fault: Box::new(fault),
        }
    }

    fn new() -> Self {
        Self::failing(|_| Ok(()))
    }
}

impl<D: Device<Buf = Vec<f32>>> Capture<D> for Tagged {
    fn sites(&self) -> &[Site] {
        &self.sites
    }

    fn capture(&mut self, contexts: &[Context], take: &mut Take<'_, D>) -> Result<()> {
        (self.fault)(contexts)?;
        let mut values = Vec::new();
        for context in contexts {
            for (position, &id) in context.ids.iter().enumerate() {
                values.extend([context.index as f32, position as f32, id as f32]);
            }
        }
        let rows = values.len() / 3;
        take(0, Rows::of(&values, rows))?;
        values.iter_mut().for_each(|v| *v = -*v);
        take(1, Rows::of(&values, rows))
    }
}

const ORDER: Order = Order {
    seed: 11,
    batch: 6,
    window_batches: 5,
    lm_batch: 4,
    keep: Keep::Device,
};

/// Windows are in its memory or, as if that were another one, in the host's.
pub(super) fn device() -> &'static Cpu {
    static DEVICE: OnceLock<Cpu> = OnceLock::new();
    DEVICE.get_or_init(|| Cpu::new(2))
}

const KEEPS: [Keep; 2] = [Keep::Device, Keep::Host];

type Source<C> = Live<'static, Cpu, Vec<Context>, C>;

fn source<C: Capture<Cpu>>(capture: C) -> Source<C> {
    Live::new(device(), contexts(20), capture, ORDER).unwrap()
}

fn live(order: Order) -> Source<Tagged> {
    Live::new(device(), contexts(20), Tagged::new(), order).unwrap()
}

/// The next `count` batches, row after row.
fn take(source: &mut dyn ActivationSource<Cpu>, count: usize) -> Vec<[f32; 3]> {
    let mut out = vec![Vec::new(); source.sites().len()];
    let mut rows = Vec::new();
    for _ in 0..count {
        let info = source.next_batch(&mut out).unwrap();
        assert_eq!(info.rows * 3, out[0].len());
        let negated: Vec<f32> = out[1].iter().map(|v| -v).collect();
        assert_eq!(out[0], negated, "rows of the sites belong together");
        rows.extend(out[0].as_chunks::<3>().0);
    }
    rows
}

fn sorted(mut rows: Vec<[f32; 3]>) -> Vec<[f32; 3]> {
    rows.sort_by(|a, b| a.partial_cmp(b).unwrap());
    rows
}

#[test]
fn every_window_is_the_next_piece_of_the_stream_in_another_order() {
    let list = contexts(20);
    let stream: Vec<[f32; 3]> = (0..4)
        .flat_map(|epoch| {
            let order = Permutation::new(20, Stream::new(11, "contexts").child(epoch));
            let list = &list;
            (0..20).flat_map(move |rank| {
                let context = &list[order.at(rank) as usize];
                let tag = |p: usize| [context.index as f32, p as f32, context.ids[p] as f32];
                context.valid_positions().map(tag).collect::<Vec<_>>()
            })
        })
        .collect();
    let mut source = live(ORDER);
    assert_eq!(source.rows_per_epoch() * 4, stream.len() as u64);
    for piece in stream.chunks_exact(30) {
        let rows = take(&mut source, 5);
        assert_ne!(rows, piece);
        assert_eq!(sorted(rows), sorted(piece.to_vec()));
    }
}

#[test]
fn epochs_hold_every_token_once_and_differ_in_order() {
    let mut source = live(ORDER);
    let per_epoch = source.rows_per_epoch() as usize;
    // So many windows that they are whole epochs.
    let rows = take(&mut source, 5 * per_epoch);
    let mut counts = std::collections::BTreeMap::new();
    for row in &rows {
        *counts.entry(row.map(f32::to_bits)).or_insert(0) += 1;
    }
    assert_eq!(counts.len(), per_epoch);
    assert!(counts.values().all(|&n| n == 30));
    assert_ne!(rows[..per_epoch], rows[per_epoch..2 * per_epoch]);
    let other = Order { seed: 12, ..ORDER };
    assert_ne!(take(&mut live(other), 5), rows[..30]);
}

/// behaviour: engine-03
#[test]
fn a_source_goes_on_bit_for_bit_from_any_batch() {
    let all = take(&mut live(ORDER), 60);
    let mut walker = live(ORDER);
    for at in 0..50 {
        let cursor = walker.cursor();
        let json = serde_json::to_string(&cursor).unwrap();
        let mut resumed = live(Order {
            lm_batch: 1 + at % 5,
            ..ORDER
        });
        resumed.seek(&serde_json::from_str(&json).unwrap()).unwrap();
        assert_eq!(resumed.cursor(), cursor);
        assert_eq!(take(&mut resumed, 8), all[at * 6..][..48]);
        // Back in the same source too.
        resumed.seek(&cursor).unwrap();
        assert_eq!(take(&mut resumed, 1), all[at * 6..][..6]);
        take(&mut walker, 1);
    }
}

#[test]
fn the_order_depends_on_the_window_and_not_on_the_batch() {
    let all = take(&mut live(ORDER), 50);
    for (batch, window_batches) in [(30, 1), (1, 30), (10, 3)] {
        let order = Order {
            batch,
            window_batches,
            ..ORDER
        };
        assert_eq!(take(&mut live(order), 300 / batch), all);
    }
}

#[test]
fn a_window_is_captured_once_and_in_batches_of_contexts() {
    let sizes = std::rc::Rc::new(std::cell::RefCell::new(Vec::new()));
    let seen = sizes.clone();
    let capture = Tagged::failing(move |contexts| {
        seen.borrow_mut().push(contexts.len());
        Ok(())
    });
    let mut source = source(capture);
    take(&mut source, 5);
    let (full, last) = (sizes.borrow().clone(), *sizes.borrow().last().unwrap());
    assert!(full.len() > 1 && last <= 4);
    assert!(full[..full.len() - 1].iter().all(|&n| n == 4));
}

#[test]
fn batches_tell_where_epochs_end() {
    let mut source = live(ORDER);
    let per_epoch = source.rows_per_epoch();
    let mut out = vec![Vec::new(); 2];
    let mut ended = 0;
    for batch in 0..100_u64 {
        let info = source.next_batch(&mut out).unwrap();
        assert_eq!(info.first_row, batch * 6);
        ended += info.ended;
        assert_eq!(info.epochs, (batch + 1) * 6 / per_epoch);
        assert_eq!(info.epochs, ended);
    }
    assert!(ended > 2);
}

/// behaviour: engine-04
#[test]
fn a_capture_that_gives_nothing_or_too_little_is_an_error() {
    struct Broken(Vec<Site>, usize);
    impl Capture<Cpu> for Broken {
        fn sites(&self) -> &[Site] {
            &self.0
        }
        fn capture(&mut self, contexts: &[Context], take: &mut Take<'_, Cpu>) -> Result<()> {
            let values = vec![0.0; contexts.len() * self.1 * 3];
            take(0, Rows::of(&values, contexts.len() * self.1))
        }
    }
    let run = |sites: Vec<Site>, rows| {
        let mut out = vec![Vec::new(); sites.len()];
        Live::new(device(), contexts(20), Broken(sites, rows), ORDER)?.next_batch(&mut out)
    };
    run(vec![site("a", 3)], 8).unwrap();
    let short = run(vec![site("a", 3)], 2).unwrap_err();
    assert_eq!((short.code, short.about.as_str()), (Code::Internal, "a"));
    let silent = run(vec![site("a", 3), site("b", 3)], 8).unwrap_err();
    assert_eq!((silent.code, silent.about.as_str()), (Code::Internal, "b"));
    assert_eq!(run(vec![], 0).unwrap_err().code, Code::HookUnknown);
}

#[test]
fn an_activation_that_is_not_finite_is_named_and_the_batch_can_be_asked_for_again() {
    let mut list = contexts(20);
    let expected = take(&mut live(ORDER), 5);
    // The second token to train on of the third context of the epoch that has any.
    let order = Permutation::new(20, Stream::new(11, "contexts").child(0));
    let of_epoch = (0..20).map(|rank| &list[order.at(rank) as usize]);
    let third = of_epoch.filter(|c| c.valid_count() > 0).nth(2).unwrap();
    let position = third.valid_positions().nth(1).unwrap();
    let place = format!("at position {position} of context {}", third.index);
    let value = (2 * 8 + position) * 3 + 1;
    // The first capture gives it this value, at the second site.
    struct Poisoned(Tagged, f32, usize);
    impl Capture<Cpu> for Poisoned {
        fn sites(&self) -> &[Site] {
            Capture::<Cpu>::sites(&self.0)
        }
        fn capture(&mut self, contexts: &[Context], take: &mut Take<'_, Cpu>) -> Result<()> {
            let poison = std::mem::take(&mut self.1);
            let mut poisoned = |site: usize, rows: Rows<'_, Vec<f32>>| {
                let mut values = rows.buf.clone();
                if poison != 0.0 && site == 1 {
                    values[self.2] = poison;
                }
                take(site, Rows::of(&values, rows.count))
            };
            Capture::<Cpu>::capture(&mut self.0, contexts, &mut poisoned)
        }
    }
    let kinds = [f32::NAN, f32::INFINITY, f32::NEG_INFINITY];
    for (poison, keep) in kinds.into_iter().flat_map(|v| KEEPS.map(|keep| (v, keep))) {
        let capture = Poisoned(Tagged::new(), poison, value);
        let order = Order { keep, ..ORDER };
        let mut source = Live::new(device(), list.clone(), capture, order).unwrap();
        let error = source.next_batch(&mut [vec![], vec![]]).unwrap_err();
        assert_eq!(
            (error.code, error.about.as_str()),
            (Code::NonFinite, "negated")
        );
        assert!(error.message.contains(&place), "{error}");
        assert_eq!(take(&mut source, 5), expected);
    }
    // Where nothing is trained on, nothing is read.
    list.iter_mut()
        .for_each(|c| *c = Context::new(0, c.ids.clone(), &[false; 8]));
    let none = Live::new(device(), list, Tagged::new(), ORDER)
        .err()
        .unwrap();
    assert_eq!(none.code, Code::DataEmpty);
}

#[test]
fn a_model_that_runs_out_of_memory_gets_fewer_contexts_and_gives_the_same_rows() {
    let expected = take(&mut live(ORDER), 10);
    let out_of_memory = || Error::new(Code::OutOfMemory, "model", "no memory");
    for fits in [1, 2, 3] {
        let capture = Tagged::failing(move |contexts| match contexts.len() > fits {
            true => Err(out_of_memory()),
            false => Ok(()),
        });
        let mut source = source(capture);
        assert_eq!(take(&mut source, 10), expected);
        assert!(source.lm_batch() <= fits && source.lm_batch() > 0);
    }
    let capture = Tagged::failing(move |_| Err(out_of_memory()));
    let mut source = source(capture);
    let error = source.next_batch(&mut [vec![], vec![]]).unwrap_err();
    assert_eq!(error.code, Code::OutOfMemory);
}

#[test]
fn a_cursor_of_another_run_is_refused() {
    let place = |rank, offset| Place {
        epoch: 0,
        rank,
        offset,
    };
    let at = |start, batch| Cursor::Live {
        start,
        window: 0,
        batch,
    };
    let mut source = live(ORDER);
    for cursor in [
        at(place(20, 0), 0),
        at(place(0, 8), 0),
        at(place(0, 0), 5),
        Cursor::Cache { row: 0 },
    ] {
        let error = source.seek(&cursor).unwrap_err();
        assert_eq!(error.code, Code::CheckpointMismatch);
        assert!(!error.hint.is_empty());
    }
    assert_eq!(take(&mut source, 5), take(&mut live(ORDER), 5));
}

#[test]
fn a_window_that_the_device_turns_out_to_have_no_room_for_is_the_hosts() {
    let small = Reference::<f32>::with_largest_buffer(ORDER.window_rows() * 3 - 1);
    let mut source = Live::new(&small, contexts(20), Tagged::new(), ORDER).unwrap();
    assert!(source.is_on_host());
    let mut out = vec![Vec::new(); 2];
    source.next_batch(&mut out).unwrap();
    assert_eq!(out[0].as_chunks::<3>().0, take(&mut live(ORDER), 1));
}

/// behaviour: double-12
#[test]
fn a_scripted_model_reads_a_finite_list_of_contexts() {
    let list: Vec<Context> = (0..640)
        .map(|i| Context::new(i, vec![i as u32 % 9; 128], &[true; 128]))
        .collect();
    let order = Order {
        batch: 64 * 128,
        window_batches: 2,
        ..ORDER
    };
    let sites = vec![site("a", 4), site("b", 2)];
    let run = || {
        let scripted = Scripted::new(3, sites.clone());
        let mut source = Live::new(device(), list.clone(), scripted, order).unwrap();
        let mut out = vec![Vec::new(); 2];
        let batches: Vec<_> = (0..10)
            .map(|_| {
                let info = source.next_batch(&mut out).unwrap();
                (info, out.clone())
            })
            .collect();
        batches
    };
    let batches = run();
    assert_eq!(batches, run());
    assert_eq!(batches[9].0.ended, 1);
    assert!(batches[..9].iter().all(|(info, _)| info.ended == 0));
    assert!(batches.iter().all(|(_, out)| out[1].len() == 64 * 128 * 2));
}

#[test]
fn the_estimate_is_what_a_window_takes() {
    let settings = ActivationSettings {
        window_batches: 5,
        lm_batch: 4,
        ..ActivationSettings::default()
    };
    let sites = Tagged::new().sites;
    // Thirty rows of three values at two sites, and their order.
    let estimate = settings.window_bytes(&sites, 6);
    assert_eq!(estimate, 4 * (30 * 6 + 30));
    assert_eq!(settings.landing_bytes(&sites, 8), 4 * (4 * 8 * 3));
    assert_eq!(settings.cache_bytes(&sites, 100), 100 * 6 * 4);
}

/// behaviour: engine-03
#[test]
fn rows_and_their_order_do_not_depend_on_whose_memory_holds_a_window() {
    let [here, there] = KEEPS.map(|keep| live(Order { keep, ..ORDER }));
    assert!(!here.is_at_hand() && !there.is_at_hand());
    assert_eq!([here.is_on_host(), there.is_on_host()], [false, true]);
    let rows = [here, there].map(|mut source| {
        let first = take(&mut source, 1);
        // Only out of the host's memory the next one comes beside the device's work.
        assert_eq!(source.is_at_hand(), source.is_on_host());
        [first, take(&mut source, 30)].concat()
    });
    assert_eq!(rows[0], rows[1]);
}

#[test]
fn settings_read_from_toml_refuse_unknown_keys_and_impossible_values() {
    let read: ActivationSettings = toml::from_str("cache_dtype = \"bf16\"\ncache = \"a\"").unwrap();
    assert_eq!(read.cache_dtype, CacheDtype::Bf16);
    assert_eq!(
        read.window_batches,
        ActivationSettings::default().window_batches
    );
    assert!(toml::from_str::<ActivationSettings>("window = 3").is_err());
    let zero = ActivationSettings {
        lm_batch: 0,
        ..read
    };
    assert_eq!(zero.validate().unwrap_err().about, "activations.lm_batch");
}
