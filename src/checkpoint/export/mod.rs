//! A trained SAE in the formats of other programs, which load it unchanged:
//!
//! ```text
//! export/
//!   saelens/                         SAE.load_from_disk("export/saelens")
//!     cfg.json  sae_weights.safetensors  sparsity.safetensors
//!   sparsify/<hook point>/           SparseCoder.load_from_disk("export/sparsify/<hook point>")
//!     cfg.json  sae.safetensors
//!   dictionary_learning/trainer_0/   load_dictionary("export/dictionary_learning/trainer_0", …)
//!     config.json  ae.pt
//! ```
//!
//! Each is written beside its place and moved there when it is durable. What a format
//! cannot express is not written in it, and the reason is returned. Facts about the
//! formats: SAELens 6.54.12, sparsify 1.3.3, dictionary_learning 0.1.0.

mod apply;
mod dictionary_learning;
mod item;
mod rows;
mod sae;
pub mod saelens;
mod sparsify;
mod torch;
mod trained;
mod zip;

pub use sae::{Architecture, ExportedSae, Metadata, Task};

use super::write;
use crate::domain::{Code, Error, Result};
use crate::system::files::create_dir;
use crate::system::fs::Fs;
use serde_json::Value;
use std::fmt;
use std::path::{Component, Path, PathBuf};

/// A foreign format.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// SAELens.
    SaeLens,
    /// EleutherAI's sparsify.
    Sparsify,
    /// dictionary_learning.
    DictionaryLearning,
}

impl Format {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::SaeLens, Self::Sparsify, Self::DictionaryLearning];

    /// The name of its folder.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::SaeLens => "saelens",
            Self::Sparsify => "sparsify",
            Self::DictionaryLearning => "dictionary_learning",
        }
    }

    /// Why it cannot hold `sae`, where it cannot.
    fn inexpressible(self, sae: &ExportedSae) -> Option<&'static str> {
        match self {
            Self::SaeLens => saelens::inexpressible(sae),
            Self::Sparsify => sparsify::inexpressible(sae),
            Self::DictionaryLearning => dictionary_learning::inexpressible(sae),
        }
    }

    fn write(self, sae: &ExportedSae, dir: &Path) -> Result<()> {
        match self {
            Self::SaeLens => saelens::write(sae, dir),
            Self::Sparsify => sparsify::write(sae, dir),
            Self::DictionaryLearning => dictionary_learning::write(sae, dir),
        }
    }
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Where in a run an SAE stands.
#[derive(Clone, Copy, Debug)]
pub struct Place<'a> {
    /// The run's `export/` folder.
    pub dir: &'a Path,
    /// Tells the SAEs of a run apart, where it has several.
    pub name: Option<&'a str>,
    /// Its number in the run.
    pub index: usize,
}

/// What became of one format.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It is durable in this folder.
    Written(Format, PathBuf),
    /// It cannot express this SAE, for this reason.
    Skipped(Format, &'static str),
}

/// Writes `sae` in every format that can hold it. Its decoder rows are expected to have
/// length 1 where they can: see [`ExportedSae::unit_rows`].
///
/// # Errors
/// Those of [`ExportedSae::check`], [`Code::IoWrite`], [`Code::DiskFull`].
pub fn write_all(sae: &ExportedSae, place: Place<'_>) -> Result<Vec<Outcome>> {
    sae.check()?;
    let mut outcomes = Vec::new();
    for format in Format::ALL {
        if let Some(reason) = format.inexpressible(sae) {
            outcomes.push(Outcome::Skipped(format, reason));
            continue;
        }
        let name = match format {
            Format::SaeLens => place.name.map(folder_name),
            Format::Sparsify => Some(folder_name(place.name.unwrap_or(&sae.metadata.hook_name))),
            Format::DictionaryLearning => Some(format!("trainer_{}", place.index)),
        };
        let (parent, name) = match name {
            Some(name) => (place.dir.join(format.as_str()), name),
            None => (place.dir.to_owned(), format.as_str().to_owned()),
        };
        let dir = replace(&parent, &name, |dir| format.write(sae, dir))?;
        outcomes.push(Outcome::Written(format, dir));
    }
    Ok(outcomes)
}

/// `name` as the name of one folder: what it makes is never a path, whatever it is given.
fn folder_name(name: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    let name: String = name
        .chars()
        .map(|c| if plain(c) { c } else { '_' })
        .collect();
    match name.trim_start_matches('.') {
        "" => "sae".to_owned(),
        name => name.to_owned(),
    }
}

/// Every file that an export consists of. Nothing else is ever removed.
const FILES: [&str; 6] = [
    "ae.pt",
    "cfg.json",
    "config.json",
    "sae.safetensors",
    "sae_weights.safetensors",
    "sparsity.safetensors",
];

/// Lets `fill` write a new folder, and puts it in the place of the folder `name` in
/// `parent`, where that is an export, too.
fn replace(parent: &Path, name: &str, fill: impl FnOnce(&Path) -> Result<()>) -> Result<PathBuf> {
    let fs = Fs::default();
    let dir = parent.join(name);
    let fail = |e: std::io::Error| Error::write(&dir, &e);
    let mut components = Path::new(name).components();
    if !matches!(
        (components.next(), components.next()),
        (Some(Component::Normal(_)), None)
    ) {
        return Err(Error::new(Code::Internal, name, "is no name of a folder"));
    }
    let new = parent.join(format!(".tmp-{name}"));
    let old = parent.join(format!(".old-{name}"));
    create_dir(parent)?;
    discard(&new)?;
    discard(&old)?;
    fs.create_dir(&new).map_err(fail)?;
    fill(&new)?;
    fs.sync_dir(&new).map_err(fail)?;
    // Between these renames there is no export, but there is the checkpoint to make it of.
    if dir.exists() {
        only_export(&dir)?;
        fs.rename(&dir, &old).map_err(fail)?;
    }
    fs.rename(&new, &dir).map_err(fail)?;
    // The folder's own entry, and those of the folders that were made for it.
    for above in parent.ancestors().take(3).filter(|p| p.is_dir()) {
        fs.sync_dir(above).map_err(fail)?;
    }
    discard(&old)?;
    Ok(dir)
}

/// Checks that the folder `dir` holds nothing but files of an export.
fn only_export(dir: &Path) -> Result<()> {
    let fail = |e: std::io::Error| Error::read(dir, &e);
    for entry in std::fs::read_dir(dir).map_err(fail)? {
        let entry = entry.map_err(fail)?;
        let known = FILES.iter().any(|name| entry.file_name() == *name);
        if !known || !entry.file_type().map_err(fail)?.is_file() {
            let message = "is no part of an export, so the folder is not replaced";
            return Err(Error::new(Code::RunExists, entry.path().display(), message)
                .hint("move it away and export again"));
        }
    }
    Ok(())
}

/// Removes the folder `dir`, where it is there and holds nothing but files of an export.
fn discard(dir: &Path) -> Result<()> {
    if !dir.exists() {
        return Ok(());
    }
    only_export(dir)?;
    Fs::default()
        .remove_dir(dir)
        .map_err(|e| Error::write(dir, &e))
}

/// Writes a JSON file of a format.
fn write_json(path: &Path, value: &Value) -> Result<()> {
    let text = format!("{value:#}\n");
    write::file(&Fs::default(), path, |out| out.write_all(text.as_bytes()))?;
    Ok(())
}

/// Writes a safetensors file of a format.
fn write_tensors(path: &Path, items: &[item::Item<'_>]) -> Result<()> {
    write::file(&Fs::default(), path, |out| item::safetensors(out, items))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whatever_an_sae_is_called_its_folder_has_one_plain_name() {
        for (name, expected) in [
            ("blocks.8.hook_resid_post", "blocks.8.hook_resid_post"),
            ("../../up", "_.._up"),
            ("/root", "_root"),
            ("..", "sae"),
            ("", "sae"),
            ("a\0b\n", "a_b_"),
        ] {
            assert_eq!(folder_name(name), expected);
        }
    }

    #[test]
    fn a_name_that_is_a_path_is_refused_before_anything_is_touched() {
        let dir = tempfile::tempdir().unwrap();
        let parent = dir.path().join("a/b/c");
        for name in ["..", ".", "", "x/y", "/", "../up"] {
            let error = replace(&parent, name, |_| panic!("it was written")).unwrap_err();
            assert_eq!(error.code, Code::Internal, "{name}");
        }
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    }
}
