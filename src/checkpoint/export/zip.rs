//! A zip archive of uncompressed files, as PyTorch writes it: streamed, with every file's
//! content at a multiple of 64 bytes so that it can be mapped.
//!
//! Format: PKWARE APPNOTE 6.3.10. Sizes and offsets past 4 GiB use its zip64 records.

use std::io::{self, Write};

/// Where contents begin is a multiple of this.
const ALIGNMENT: u64 = 64;
/// In place of a number that a zip64 record holds.
const SEE_ZIP64: u32 = u32::MAX;
/// The version that knows zip64.
const VERSION: u16 = 45;
/// Checksum and sizes follow the content (bit 3); names are UTF-8 (bit 11).
const FLAGS: u16 = 1 << 3 | 1 << 11;
/// 1980-01-01, the first day that the format knows: archives do not depend on the clock.
const DATE: u16 = 1 << 5 | 1;

/// An archive that is being written.
pub struct Archive<'a> {
    out: &'a mut dyn Write,
    at: u64,
    entries: Vec<Entry>,
}

struct Entry {
    name: String,
    crc: u32,
    length: u64,
    at: u64,
}

impl<'a> Archive<'a> {
    /// An archive that begins at the beginning of `out`.
    pub fn new(out: &'a mut dyn Write) -> Self {
        Self {
            out,
            at: 0,
            entries: Vec::new(),
        }
    }

    /// Adds the file `name`, of which `fill` writes exactly `length` bytes.
    pub fn file(
        &mut self,
        name: &str,
        length: u64,
        fill: impl FnOnce(&mut dyn Write) -> io::Result<()>,
    ) -> io::Result<()> {
        let at = self.at;
        let (size, zip64) = match short(length) {
            Some(_) => (0, Vec::new()),
            None => (SEE_ZIP64, zip64(&[length, length])),
        };
        let before_padding = at + 30 + (name.len() + zip64.len()) as u64;
        let extra = [zip64, padding(before_padding)].concat();
        self.put(b"PK\x03\x04")?;
        self.put(&described(0, size, name, &extra))?;
        self.put(name.as_bytes())?;
        self.put(&extra)?;

        let mut content = Checked {
            out: &mut *self.out,
            crc: flate2::Crc::new(),
            written: 0,
        };
        fill(&mut content)?;
        let (crc, written) = (content.crc.sum(), content.written);
        if written != length {
            let message = format!("{name} has {written} bytes, not {length}");
            return Err(io::Error::other(message));
        }
        self.at += length;

        self.put(b"PK\x07\x08")?;
        self.put(&crc.to_le_bytes())?;
        match short(length) {
            Some(size) => self.put(&[size.to_le_bytes(); 2].concat())?,
            None => self.put(&[length.to_le_bytes(); 2].concat())?,
        }
        self.entries.push(Entry {
            name: name.to_owned(),
            crc,
            length,
            at,
        });
        Ok(())
    }

    /// Writes the directory, which makes it an archive.
    pub fn finish(mut self) -> io::Result<()> {
        let start = self.at;
        let entries = std::mem::take(&mut self.entries);
        for entry in &entries {
            let mut large = Vec::new();
            if short(entry.length).is_none() {
                large.extend([entry.length, entry.length]);
            }
            if short(entry.at).is_none() {
                large.push(entry.at);
            }
            let extra = match large.is_empty() {
                true => Vec::new(),
                false => zip64(&large),
            };
            let size = short(entry.length).unwrap_or(SEE_ZIP64);
            self.put(b"PK\x01\x02")?;
            self.put(&VERSION.to_le_bytes())?;
            self.put(&described(entry.crc, size, &entry.name, &extra))?;
            // Comment, disk, attributes: none.
            self.put(&[0; 10])?;
            self.put(&short(entry.at).unwrap_or(SEE_ZIP64).to_le_bytes())?;
            self.put(entry.name.as_bytes())?;
            self.put(&extra)?;
        }
        self.end(start, entries.len() as u64)
    }

    fn end(mut self, start: u64, count: u64) -> io::Result<()> {
        let (length, end) = (self.at - start, self.at);
        if short(start).is_none() || short(length).is_none() {
            self.put(b"PK\x06\x06")?;
            self.put(&44u64.to_le_bytes())?;
            self.put(&[VERSION.to_le_bytes(); 2].concat())?;
            self.put(&[0; 8])?;
            for number in [count, count, length, start] {
                self.put(&number.to_le_bytes())?;
            }
            self.put(b"PK\x06\x07\0\0\0\0")?;
            self.put(&end.to_le_bytes())?;
            self.put(&1u32.to_le_bytes())?;
        }
        self.put(b"PK\x05\x06\0\0\0\0")?;
        self.put(&[(count as u16).to_le_bytes(); 2].concat())?;
        self.put(&short(length).unwrap_or(SEE_ZIP64).to_le_bytes())?;
        self.put(&short(start).unwrap_or(SEE_ZIP64).to_le_bytes())?;
        self.put(&[0; 2])
    }

    fn put(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.out.write_all(bytes)?;
        self.at += bytes.len() as u64;
        Ok(())
    }
}

/// `number`, where 32 bits hold it.
fn short(number: u64) -> Option<u32> {
    u32::try_from(number).ok().filter(|n| *n != SEE_ZIP64)
}

/// What the header of a file and its entry in the directory have in common.
fn described(crc: u32, size: u32, name: &str, extra: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    // No compression, no time of day.
    for number in [VERSION, FLAGS, 0, 0, DATE] {
        bytes.extend(number.to_le_bytes());
    }
    for number in [crc, size, size] {
        bytes.extend(number.to_le_bytes());
    }
    for length in [name.len(), extra.len()] {
        bytes.extend((length as u16).to_le_bytes());
    }
    bytes
}

fn zip64(numbers: &[u64]) -> Vec<u8> {
    let length = 8 * numbers.len() as u16;
    let mut record = [1u16.to_le_bytes(), length.to_le_bytes()].concat();
    record.extend(numbers.iter().flat_map(|n| n.to_le_bytes()));
    record
}

/// The record that fills a header up to the alignment; PyTorch's own is called `FB`.
fn padding(at: u64) -> Vec<u8> {
    let length = (at + 4).next_multiple_of(ALIGNMENT) - at - 4;
    let mut record = b"FB".to_vec();
    record.extend((length as u16).to_le_bytes());
    record.resize(4 + length as usize, b'Z');
    record
}

/// A file's content on its way.
struct Checked<'a> {
    out: &'a mut dyn Write,
    crc: flate2::Crc,
    written: u64,
}

impl Write for Checked<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.out.write(bytes)?;
        self.crc.update(&bytes[..written]);
        self.written += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
        bytes[at..at + N].try_into().unwrap()
    }

    /// An archive whose parts lie past 4 GiB is described by zip64 records, which the
    /// 32-bit fields point to.
    #[test]
    fn offsets_past_4_gib_stand_in_zip64_records() {
        let far = 5u64 << 30;
        let mut bytes = Vec::new();
        let mut archive = Archive::new(&mut bytes);
        archive.at = far;
        archive.file("a", 3, |out| out.write_all(b"abc")).unwrap();
        archive.finish().unwrap();

        let directory = 64 + 3 + 16;
        let entry = &bytes[directory..];
        assert_eq!(at(entry, 0), *b"PK\x01\x02");
        assert_eq!(u32::from_le_bytes(at(entry, 20)), 3, "its size fits");
        assert_eq!(u32::from_le_bytes(at(entry, 42)), u32::MAX);
        // After the name: record 1 with eight bytes, the offset.
        assert_eq!(at(entry, 47), [1, 0, 8, 0]);
        assert_eq!(u64::from_le_bytes(at(entry, 51)), far);

        let end = &entry[59..];
        assert_eq!(at(end, 0), *b"PK\x06\x06");
        let [count, again, length, start] =
            [24, 32, 40, 48].map(|i| u64::from_le_bytes(at(end, i)));
        assert_eq!((count, again, length), (1, 1, 59));
        assert_eq!(start, far + directory as u64);
        let locator = &end[56..];
        assert_eq!(at(locator, 0), *b"PK\x06\x07");
        assert_eq!(u64::from_le_bytes(at(locator, 8)), start + length);
        let last = &locator[20..];
        assert_eq!(at(last, 0), *b"PK\x05\x06");
        assert_eq!(u32::from_le_bytes(at(last, 16)), u32::MAX);
        assert_eq!(last.len(), 22);
    }

    #[test]
    fn a_file_of_another_length_than_announced_is_an_error() {
        let mut bytes = Vec::new();
        let mut archive = Archive::new(&mut bytes);
        let error = archive.file("a", 4, |out| out.write_all(b"abc"));
        assert!(error.unwrap_err().to_string().contains("3 bytes, not 4"));
    }
}
