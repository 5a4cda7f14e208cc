//! `jsonl`: each event is a line of JSON at the end of a file.

use super::{EventHandler, Settings};
use crate::domain::{Error, Result};
use crate::protocol::api::Event;
use serde::Deserialize;
use std::fs::{self, File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Keys {
    path: PathBuf,
    /// MiB after which the file becomes `….1`, in place of an earlier one; 0 for never.
    #[serde(default)]
    rotate_mib: u64,
}

/// An open file of lines.
pub(super) struct Jsonl {
    path: PathBuf,
    file: File,
    length: u64,
    longest: u64,
    line: Vec<u8>,
}

pub(super) fn prepare(settings: &Settings) -> Result<impl Fn() -> Result<Jsonl> + use<>> {
    let keys: Keys = settings.decode()?;
    if keys.path.as_os_str().is_empty() {
        return Err(settings.invalid("path", "is empty"));
    }
    let path = settings.path(&keys.path);
    let longest = match keys.rotate_mib {
        0 => u64::MAX,
        mib => mib.saturating_mul(1 << 20),
    };
    Ok(move || Jsonl::open(&path, longest))
}

impl Jsonl {
    fn open(path: &Path, longest: u64) -> Result<Self> {
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder).map_err(|e| Error::write(folder, &e))?;
        }
        let (file, length) = open(path).map_err(|e| Error::write(path, &e))?;
        Ok(Self {
            path: path.to_owned(),
            file,
            length,
            longest,
            line: Vec::new(),
        })
    }

    fn write(&mut self) -> std::io::Result<()> {
        let line = self.line.len() as u64;
        if self.length > 0 && self.length.saturating_add(line) > self.longest {
            let mut older = self.path.clone().into_os_string();
            older.push(".1");
            fs::rename(&self.path, older)?;
            (self.file, self.length) = open(&self.path)?;
        }
        // A line in one piece, so that who follows the file sees whole lines.
        if let Err(e) = self.file.write_all(&self.line) {
            // As from a full disk: half a line is none.
            let now = self.file.metadata().map_or(0, |file| file.len());
            let _ = self.file.set_len(self.length.min(now));
            return Err(e);
        }
        self.length += line;
        Ok(())
    }
}

/// The file at `path`, at its end, which is the end of a line: a crash may have cut the last
/// one.
fn open(path: &Path) -> std::io::Result<(File, u64)> {
    let mut options = OpenOptions::new();
    let mut file = options.create(true).append(true).read(true).open(path)?;
    let mut length = file.seek(SeekFrom::End(0))?;
    if length > 0 {
        let mut last = [0];
        file.seek(SeekFrom::End(-1))?;
        file.read_exact(&mut last)?;
        if last != *b"\n" {
            file.write_all(b"\n")?;
            length += 1;
        }
    }
    Ok((file, length))
}

impl EventHandler for Jsonl {
    fn handle(&mut self, event: &Event) -> Result<()> {
        self.line.clear();
        serde_json::to_writer(&mut self.line, event)
            .map_err(|e| Error::new(crate::domain::Code::Internal, "event", e))?;
        self.line.push(b'\n');
        self.write().map_err(|e| Error::write(&self.path, &e))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn event(id: u64) -> Event {
        Event::new(id, None, None, 0, "epoch", json!({ "epoch": 1, "step": 4 }))
    }

    fn ids(path: &Path) -> Vec<u64> {
        let text = fs::read_to_string(path).unwrap();
        let id = |line: &str| serde_json::from_str::<Value>(line).unwrap()["id"].as_u64();
        text.lines().filter_map(id).collect()
    }

    #[test]
    fn lines_are_appended_after_a_cut_one_too() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("deep/events.jsonl");
        let mut jsonl = Jsonl::open(&path, u64::MAX).unwrap();
        jsonl.handle(&event(1)).unwrap();
        jsonl.handle(&event(2)).unwrap();
        assert_eq!(ids(&path), [1, 2]);
        let mut file = OpenOptions::new().append(true).open(&path).unwrap();
        file.write_all(b"{\"v\":1,\"id\":").unwrap();
        let mut jsonl = Jsonl::open(&path, u64::MAX).unwrap();
        jsonl.handle(&event(3)).unwrap();
        let text = fs::read_to_string(&path).unwrap();
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), 4);
        assert!(lines[3].contains("\"id\":3") && text.ends_with('\n'));
    }

    #[test]
    fn a_file_that_is_full_makes_room_for_the_next() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("events.jsonl");
        let line = serde_json::to_vec(&event(1)).unwrap().len() as u64 + 1;
        let mut jsonl = Jsonl::open(&path, 2 * line).unwrap();
        for id in 1..=5 {
            jsonl.handle(&event(id)).unwrap();
        }
        assert_eq!(ids(&path), [5]);
        assert_eq!(ids(&dir.path().join("events.jsonl.1")), [3, 4]);
    }
}
