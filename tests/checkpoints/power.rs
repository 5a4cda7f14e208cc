//! Power loss: what was not synced may or may not have reached the disk, in any
//! combination. A simulated disk keeps apart what is durable and what is pending, and
//! every state that it could be left in must hold the last saved step.

use super::*;
use backpropd::system::fs::Call;
use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

/// A recorded call, or the return of a save.
enum Event {
    CreateDir(PathBuf),
    Create(PathBuf),
    Write(PathBuf, Vec<u8>),
    Sync(PathBuf),
    SyncDir(PathBuf),
    Rename(PathBuf, PathBuf),
    RemoveDir(PathBuf),
    Saved(u64),
}

fn record(call: Call<'_>) -> Option<Event> {
    Some(match call {
        Call::CreateDir(p) => Event::CreateDir(p.into()),
        Call::Create(p) => Event::Create(p.into()),
        Call::Write(p, bytes) => Event::Write(p.into(), bytes.to_vec()),
        Call::Sync(p) => Event::Sync(p.into()),
        Call::SyncDir(p) => Event::SyncDir(p.into()),
        Call::Rename(from, to) => Event::Rename(from.into(), to.into()),
        Call::RemoveDir(p) => Event::RemoveDir(p.into()),
        Call::Open(_) | Call::Read(_) => return None,
    })
}

type Inode = usize;

/// A change of a folder that waits for the folder's fsync.
#[derive(Clone)]
enum Change {
    Add(String, Inode),
    Rename(String, String, Inode),
    Remove(String),
}

impl Change {
    fn apply(&self, entries: &mut BTreeMap<String, Inode>) {
        match self {
            Change::Add(name, inode) => drop(entries.insert(name.clone(), *inode)),
            Change::Rename(from, to, inode) => {
                entries.remove(from);
                entries.insert(to.clone(), *inode);
            }
            Change::Remove(name) => drop(entries.remove(name)),
        }
    }
}

/// A file or a folder: what a power loss leaves for certain, and what it may leave.
#[derive(Clone, Default)]
struct Node {
    entries: BTreeMap<String, Inode>,
    changes: Vec<Change>,
    data: Vec<u8>,
    writes: Vec<Vec<u8>>,
}

impl Node {
    fn entries_now(&self) -> BTreeMap<String, Inode> {
        let mut entries = self.entries.clone();
        self.changes.iter().for_each(|c| c.apply(&mut entries));
        entries
    }
}

/// The disk; node 0 is the checkpoints' folder.
#[derive(Clone)]
struct Disk {
    root: PathBuf,
    nodes: Vec<Node>,
}

impl Disk {
    fn find(&self, path: &Path) -> Inode {
        let inside = path.strip_prefix(&self.root).unwrap();
        inside.iter().fold(0, |node, name| {
            self.nodes[node].entries_now()[name.to_str().unwrap()]
        })
    }

    fn split(&self, path: &Path) -> (Inode, String) {
        let name = path.file_name().unwrap().to_str().unwrap();
        (self.find(path.parent().unwrap()), name.to_owned())
    }

    fn change(&mut self, path: &Path, change: impl FnOnce(String) -> Change) {
        let (folder, name) = self.split(path);
        self.nodes[folder].changes.push(change(name));
    }

    fn apply(&mut self, event: &Event) {
        match event {
            Event::CreateDir(path) | Event::Create(path) => {
                self.nodes.push(Node::default());
                let inode = self.nodes.len() - 1;
                self.change(path, |name| Change::Add(name, inode));
            }
            Event::Write(path, bytes) => {
                let inode = self.find(path);
                self.nodes[inode].writes.push(bytes.clone());
            }
            Event::Sync(path) => {
                let inode = self.find(path);
                let node = &mut self.nodes[inode];
                node.data.extend(node.writes.drain(..).flatten());
            }
            Event::SyncDir(path) => {
                let inode = self.find(path);
                let node = &mut self.nodes[inode];
                node.entries = node.entries_now();
                node.changes.clear();
            }
            Event::Rename(from, to) => {
                let inode = self.find(from);
                let (_, new) = self.split(to);
                self.change(from, |old| Change::Rename(old, new, inode));
            }
            Event::RemoveDir(path) => {
                let inode = self.find(path);
                for name in self.nodes[inode].entries_now().into_keys() {
                    self.nodes[inode].changes.push(Change::Remove(name));
                }
                self.change(path, Change::Remove);
            }
            Event::Saved(_) => {}
        }
    }

    /// Writes to `to` one of the states in which a power loss may leave `node`.
    fn lose_power(&self, node: Inode, to: &Path, is_dir: &[bool], dice: &mut Dice) {
        let mut entries = self.nodes[node].entries.clone();
        for change in &self.nodes[node].changes {
            if dice.below(2) == 0 {
                change.apply(&mut entries);
            }
        }
        fs::create_dir(to).unwrap();
        for (name, inode) in entries {
            let path = to.join(name);
            if is_dir[inode] {
                self.lose_power(inode, &path, is_dir, dice);
                continue;
            }
            let mut data = self.nodes[inode].data.clone();
            for write in &self.nodes[inode].writes {
                match dice.below(4) {
                    0 => data.extend(write),
                    1 => data.extend(&write[..dice.below(write.len() + 1)]),
                    // The length arrived, the blocks did not.
                    2 => data.extend(vec![0; write.len()]),
                    _ => {}
                }
            }
            fs::write(path, data).unwrap();
        }
    }
}

#[test]
fn a_power_loss_leaves_the_old_or_the_new_checkpoint_whole() {
    let dir = scratch();
    let events = Arc::new(Mutex::new(Vec::new()));
    let log = events.clone();
    let mut store = open(
        Fs::gated(Arc::new(move |call| {
            log.lock().unwrap().extend(record(call));
            Ok(())
        })),
        dir.path(),
    );
    for step in 1..=5 {
        Toy::at(step).save(&mut store).unwrap();
        events.lock().unwrap().push(Event::Saved(step));
    }
    drop(store);
    let events = events.lock().unwrap();

    let mut dice = Dice(2);
    let states = size(1500, 100_000).div_ceil(events.len());
    let after = scratch();
    let mut disk = Disk {
        root: dir.path().to_owned(),
        nodes: vec![Node::default()],
    };
    let mut is_dir = vec![true];
    let mut saved = 0;
    for event in events.iter() {
        disk.apply(event);
        match event {
            Event::CreateDir(_) => is_dir.push(true),
            Event::Create(_) => is_dir.push(false),
            Event::Saved(step) => saved = *step,
            _ => {}
        }
        for _ in 0..states {
            let left = after.path().join("left");
            disk.lose_power(0, &left, &is_dir, &mut dice);
            let found = open(Fs::default(), &left).newest_valid();
            match found {
                Err(_) => assert_eq!(saved, 0, "step {saved} is gone"),
                Ok(found) => {
                    assert!(found.checkpoint.step() >= saved);
                    assert_eq!(found.skipped, [], "a torn checkpoint has a name");
                    restored(&left);
                }
            }
            fs::remove_dir_all(&left).unwrap();
        }
    }
    assert_eq!(saved, 5);
}
