//! `.txt`: the whole file is one document, read in blocks.

use super::{Sink, not_utf8};
use crate::domain::{Error, Result};
use std::fs::File;
use std::io::Read;
use std::path::Path;

const BLOCK: usize = 256 << 10;

pub(super) fn read(path: &Path, sink: &mut dyn Sink) -> Result<()> {
    let fail = |e: std::io::Error| Error::read(path, &e);
    let mut file = File::open(path).map_err(fail)?;
    let mut block = vec![0; BLOCK];
    // Bytes of the file before the block, and bytes of a character that the last block cut.
    let (mut before, mut kept) = (0_u64, 0);
    loop {
        let n = file.read(&mut block[kept..]).map_err(fail)?;
        let filled = kept + n;
        let (text, rest) = match std::str::from_utf8(&block[..filled]) {
            Ok(text) => (text, 0),
            Err(e) => {
                let good = e.valid_up_to();
                if e.error_len().is_some() || n == 0 {
                    return Err(not_utf8(path, "", before + good as u64));
                }
                let text = std::str::from_utf8(&block[..good]).unwrap_or_default();
                (text, filled - good)
            }
        };
        let mark = before == 0 && text.starts_with('\u{feff}');
        sink.text(if mark {
            &text['\u{feff}'.len_utf8()..]
        } else {
            text
        })?;
        if n == 0 {
            return sink.end_document();
        }
        block.copy_within(filled - rest..filled, 0);
        before += (filled - rest) as u64;
        kept = rest;
    }
}
