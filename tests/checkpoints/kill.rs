//! SIGKILL of a real process: at every call of a save, and at moments of nobody's choice.

use super::*;
use backpropd::system::fs::Call;
use rustix::process::{Signal, getpid, kill_process};
use std::io::{BufRead, BufReader, Write};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

const FOLDER: &str = "BACKPROPD_TEST_KILL_FOLDER";
const CALL: &str = "BACKPROPD_TEST_KILL_CALL";

/// The process that is killed: this test binary, asked for this test alone.
fn spawn(dir: &Path, call: Option<usize>) -> Child {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command
        .args(["--exact", "kill::child", "--nocapture", "--test-threads=1"])
        .env(FOLDER, dir)
        .stdout(Stdio::piped());
    if let Some(call) = call {
        command.env(CALL, call.to_string());
    }
    command.spawn().unwrap()
}

/// Not a test of its own: without the variables it does nothing.
#[test]
fn child() {
    let Some(dir) = std::env::var_os(FOLDER).map(PathBuf::from) else {
        return;
    };
    let fatal = std::env::var(CALL).ok().map(|n| n.parse().unwrap());
    let fatal = AtomicUsize::new(fatal.unwrap_or(usize::MAX));
    let gate = move |call: Call<'_>| {
        if fatal.fetch_sub(1, SeqCst) == 0 {
            if let Call::Write(path, bytes) = call {
                // A write that the death cut short.
                let mut file = std::fs::File::options().append(true).open(path)?;
                file.write_all(&bytes[..bytes.len() / 2])?;
            }
            kill_process(getpid(), Signal::KILL)?;
        }
        Ok(())
    };
    let mut store = open(Fs::gated(Arc::new(gate)), &dir);
    let mut toy = match store.newest_valid() {
        Ok(found) => Toy::load(&found),
        Err(_) => Toy::start(),
    };
    loop {
        toy.advance();
        if toy.step.is_multiple_of(INTERVAL) {
            toy.save(&mut store).unwrap();
            println!("\nsaved {}", toy.step);
        }
    }
}

/// Steps that the child reported, up to its end or to `enough` of them.
fn reports(child: &mut Child, enough: usize) -> Vec<u64> {
    BufReader::new(child.stdout.as_mut().unwrap())
        .lines()
        .map_while(Result::ok)
        .filter_map(|line| line.strip_prefix("saved ").and_then(|n| n.parse().ok()))
        .take(enough)
        .collect()
}

/// What the kill left holds everything that was reported, exactly.
fn check(dir: &Path, reported: &[u64], before: u64) -> u64 {
    let last = reported.last().copied().unwrap_or(before);
    let found = match open(Fs::default(), dir).newest_valid() {
        Err(_) if last == 0 => 0,
        _ => restored(dir).step,
    };
    // A kill between the last call and the report leaves a step more than reported.
    assert!(found >= last, "step {last} was reported, {found} is left");
    found
}

#[test]
fn a_kill_at_any_call_of_a_save_leaves_the_last_reported_step() {
    let dir = scratch();
    let mut step = 0;
    // Every call of the first four saves, which rotate; later ones are like the last.
    for call in 0..size(100, 200) {
        if call % 25 == 0 {
            std::fs::remove_dir_all(dir.path()).unwrap();
            step = 0;
        }
        let mut child = spawn(dir.path(), Some(call));
        let reported = reports(&mut child, usize::MAX);
        assert!(!child.wait().unwrap().success());
        step = check(dir.path(), &reported, step);
    }
    assert!(step > 0);
}

#[test]
fn a_kill_at_any_instant_leaves_the_last_reported_step() {
    let dir = scratch();
    let mut dice = Dice(11);
    let mut step = 0;
    for _ in 0..size(15, 1000) {
        let mut child = spawn(dir.path(), None);
        let reported = reports(&mut child, 1 + dice.below(6));
        // The child runs on while this is decided and delivered.
        child.kill().unwrap();
        let late = reports(&mut child, usize::MAX);
        child.wait().unwrap();
        step = check(dir.path(), &[reported, late].concat(), step);
    }
}
