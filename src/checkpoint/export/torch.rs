//! A state dict as `torch.save` writes it: an [archive](super::zip) of raw storages and a
//! pickle that says what they are.
//!
//! The pickle (protocol 2) uses only what `torch.load(weights_only=True)`, its default,
//! runs: a dict of `torch._utils._rebuild_tensor_v2` calls. Facts from PyTorch's
//! `serialization.py` and `_weights_only_unpickler.py`, checked against 2.15.

use super::item::Item;
use super::zip::Archive;
use crate::tensorfile::Dtype;
use std::io::{self, Write};

/// Writes `items` as the state dict of a file called `NAME.pt`, with `name` = `NAME`.
pub fn save(out: &mut dyn Write, name: &str, items: &[Item<'_>]) -> io::Result<()> {
    let mut archive = Archive::new(out);
    let mut whole = |file: &str, bytes: &[u8]| {
        archive.file(&format!("{name}/{file}"), bytes.len() as u64, |out| {
            out.write_all(bytes)
        })
    };
    whole("data.pkl", &pickle(items)?)?;
    whole("byteorder", b"little")?;
    for (key, item) in items.iter().enumerate() {
        archive.file(&format!("{name}/data/{key}"), item.length(), |out| {
            item.write_to(out)
        })?;
    }
    let version = b"3\n";
    archive.file(&format!("{name}/version"), version.len() as u64, |out| {
        out.write_all(version)
    })?;
    archive.finish()
}

fn pickle(items: &[Item<'_>]) -> io::Result<Vec<u8>> {
    let mut p = Pickle(b"\x80\x02".to_vec());
    p.op(b'}'); // EMPTY_DICT
    p.op(b'('); // MARK
    for (key, item) in items.iter().enumerate() {
        p.text(item.name);
        p.global("torch._utils", "_rebuild_tensor_v2");
        p.tuple(|p| {
            p.tuple(|p| {
                p.text("storage");
                p.global("torch", storage(item.dtype)?);
                p.text(&key.to_string());
                p.text("cpu");
                p.int(item.shape.iter().product());
                Ok(())
            })?;
            p.op(b'Q'); // BINPERSID
            p.int(0); // offset in the storage
            let strides = (1..=item.shape.len()).map(|i| item.shape[i..].iter().product());
            p.ints(item.shape.iter().copied())?;
            p.ints(strides)?;
            p.op(b'\x89'); // NEWFALSE: needs no gradient
            p.global("collections", "OrderedDict"); // backward hooks: none
            p.tuple(|_| Ok(()))?;
            p.op(b'R'); // REDUCE
            Ok(())
        })?;
        p.op(b'R');
    }
    p.op(b'u'); // SETITEMS
    p.op(b'.'); // STOP
    Ok(p.0)
}

fn storage(dtype: Dtype) -> io::Result<&'static str> {
    match dtype {
        Dtype::F32 => Ok("FloatStorage"),
        Dtype::I32 => Ok("IntStorage"),
        Dtype::I64 => Ok("LongStorage"),
        other => Err(io::Error::other(format!("no storage for {other}"))),
    }
}

/// Opcodes of Python's `pickle`, protocol 2.
struct Pickle(Vec<u8>);

impl Pickle {
    fn op(&mut self, op: u8) {
        self.0.push(op);
    }

    /// BINUNICODE.
    fn text(&mut self, text: &str) {
        self.op(b'X');
        self.0.extend((text.len() as u32).to_le_bytes());
        self.0.extend(text.as_bytes());
    }

    /// GLOBAL.
    fn global(&mut self, module: &str, name: &str) {
        self.0.extend(format!("c{module}\n{name}\n").bytes());
    }

    /// TUPLE of what `fill` pushes.
    fn tuple(&mut self, fill: impl FnOnce(&mut Self) -> io::Result<()>) -> io::Result<()> {
        self.op(b'(');
        fill(self)?;
        self.op(b't');
        Ok(())
    }

    /// A tuple of numbers.
    fn ints(&mut self, numbers: impl Iterator<Item = usize>) -> io::Result<()> {
        self.tuple(|p| {
            numbers.for_each(|n| p.int(n));
            Ok(())
        })
    }

    /// BININT where it fits, else LONG1.
    fn int(&mut self, number: usize) {
        match i32::try_from(number) {
            Ok(number) => {
                self.op(b'J');
                self.0.extend(number.to_le_bytes());
            }
            Err(_) => {
                self.0.extend([b'\x8a', 9]);
                self.0.extend((number as u64).to_le_bytes());
                // The sign.
                self.op(0);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;
    use std::path::PathBuf;

    /// 5 GiB, so only with `BACKPROPD_FULL=1`; kept in `BACKPROPD_BIG_PT`, where that
    /// names a file, to be loaded by PyTorch.
    #[test]
    fn a_tensor_past_4_gib_is_written() {
        if std::env::var("BACKPROPD_FULL").as_deref() != Ok("1") {
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        let kept = std::env::var_os("BACKPROPD_BIG_PT").map(PathBuf::from);
        let path = kept.unwrap_or(dir.path().join("ae.pt"));
        let mut zeros = vec![0f32; 5 << 28];
        zeros[7] = 1.5;
        let items = [
            Item::f32("large", &[5, 1 << 28], &zeros),
            Item::f32("small", &[2], &[0.25, -3.0]),
        ];
        save(&mut File::create(&path).unwrap(), "ae", &items).unwrap();
        assert!(path.metadata().unwrap().len() > 5 << 30);
    }
}
