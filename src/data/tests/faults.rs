//! Token sets that are damaged, unfinished or cancelled.

use super::*;

/// behaviour: train-11
#[test]
fn a_damaged_token_set_is_reported_and_rebuilt() {
    let bench = Bench::new(&TEXTS);
    let (first, _) = bench.build();
    let expected = contexts(&first);
    let good = std::fs::read(bench.file()).unwrap();
    let mut damages: Vec<Vec<u8>> = [0, 1, 8, 60, good.len() - 1]
        .map(|n| good[..n].to_vec())
        .into();
    for at in (0..good.len()).step_by(5) {
        let mut bytes = good.clone();
        bytes[at] ^= 1;
        damages.push(bytes);
    }
    for bytes in damages {
        std::fs::write(bench.file(), bytes).unwrap();
        let (set, rebuilt) = bench.build();
        assert_eq!(rebuilt.len(), 1);
        assert_eq!(rebuilt[0].code, Code::CacheCorrupt);
        assert_eq!(rebuilt[0].about, bench.file().display().to_string());
        assert!(!set.reused());
        assert_eq!(contexts(&set), expected);
        assert_eq!(std::fs::read(bench.file()).unwrap(), good);
    }
}

#[test]
fn an_unfinished_token_set_is_reported_and_one_that_failed_leaves_nothing() {
    let bench = Bench::new(&TEXTS);
    let (set, _) = bench.build();
    let partial = bench.file().with_extension("partial");
    std::fs::rename(bench.file(), &partial).unwrap();
    let (again, rebuilt) = bench.build();
    assert_eq!(rebuilt.len(), 1);
    assert_eq!(rebuilt[0].about, partial.display().to_string());
    assert_eq!(contexts(&again), contexts(&set));
    assert!(!partial.exists());

    // A cancel comes through as the caller's own error.
    bench.write(&["other text"]);
    let cancel = &mut |p: Progress<'_>| match p {
        Progress::Tokenising(..) => Err(Error::new(Code::Usage, "", "stop")),
        _ => Ok(()),
    };
    let run = |p: &mut dyn FnMut(Progress<'_>) -> Result<()>| {
        TokenSet::open_or_build(
            &bench.settings,
            &tokenizer_file(),
            &MODEL,
            &bench.cache(),
            p,
        )
    };
    assert_eq!(run(cancel).unwrap_err().code, Code::Usage);
    let left: Vec<_> = std::fs::read_dir(bench.cache()).unwrap().collect();
    assert_eq!(left.len(), 2, "the token set and the lock: {left:?}");
    assert!(!run(&mut |_| Ok(())).unwrap().reused());
}
