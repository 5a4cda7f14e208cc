//! The JSON header of a safetensors file: length, tensors, offsets.
//!
//! Format: <https://huggingface.co/docs/safetensors>. Eight bytes of little-endian length,
//! the JSON object, then the tensors' bytes without gaps.

use super::{Dtype, shown};
use serde::de::{Deserialize, Deserializer, Error as _, MapAccess, Visitor};
use std::collections::BTreeMap;
use std::fmt;

/// Largest header that is parsed, in bytes. Real ones stay below 1 MiB; a parser fed with
/// a hundred times that takes gigabytes.
pub const MAX_HEADER: usize = 8 << 20;

/// One tensor's place, relative to the end of the header.
pub(super) struct Entry {
    pub dtype: Dtype,
    pub shape: Vec<usize>,
    pub start: usize,
    pub end: usize,
}

pub(super) struct Header {
    pub tensors: BTreeMap<String, Entry>,
    pub metadata: BTreeMap<String, String>,
}

/// What is wrong, and with which tensor.
pub(super) struct Fault {
    pub tensor: Option<String>,
    pub message: String,
}

fn fault(message: impl fmt::Display) -> Fault {
    Fault {
        tensor: None,
        message: message.to_string(),
    }
}

fn tensor_fault(name: &str, message: impl fmt::Display) -> Fault {
    Fault {
        tensor: Some(shown(name)),
        message: message.to_string(),
    }
}

/// The header of `file` and where the data begins.
pub(super) fn read(file: &[u8]) -> Result<(usize, Header), Fault> {
    let Some((length, rest)) = file.split_first_chunk::<8>() else {
        return Err(fault(format_args!(
            "{} bytes are too few for a safetensors file",
            file.len()
        )));
    };
    let length = u64::from_le_bytes(*length);
    if length > MAX_HEADER as u64 {
        return Err(fault(format_args!(
            "its header claims {length} bytes; at most {MAX_HEADER} are read"
        )));
    }
    let length = length as usize;
    let Some((json, data)) = rest.split_at_checked(length) else {
        return Err(fault(format_args!(
            "it ends inside its header of {length} bytes"
        )));
    };
    let header: Header = serde_json::from_slice(json)
        .map_err(|e| fault(format_args!("its header is not valid: {e}")))?;
    check(&header, data.len())?;
    Ok((8 + length, header))
}

/// Every tensor's bytes agree with its shape, and together they are the data: no gap, no
/// overlap, nothing missing, nothing left over.
fn check(header: &Header, data: usize) -> Result<(), Fault> {
    let mut order: Vec<(&String, &Entry)> = header.tensors.iter().collect();
    order.sort_by_key(|(_, entry)| (entry.start, entry.end));
    let mut at = 0;
    for (name, entry) in order {
        let needed = entry
            .shape
            .iter()
            .try_fold(1_usize, |n, &dim| n.checked_mul(dim))
            .and_then(|n| n.checked_mul(entry.dtype.bitsize()))
            .ok_or_else(|| tensor_fault(name, format_args!("shape {:?} overflows", entry.shape)))?;
        if entry.end < entry.start || needed != (entry.end - entry.start).saturating_mul(8) {
            return Err(tensor_fault(
                name,
                format_args!(
                    "bytes {}..{} do not hold {:?} of {}",
                    entry.start, entry.end, entry.shape, entry.dtype
                ),
            ));
        }
        if entry.end > data {
            return Err(tensor_fault(
                name,
                format_args!(
                    "its bytes end at {}, the file's data at {data}: the file is truncated",
                    entry.end
                ),
            ));
        }
        if entry.start != at {
            return Err(tensor_fault(
                name,
                format_args!(
                    "its bytes begin at {}, the tensor before it ends at {at}",
                    entry.start
                ),
            ));
        }
        at = entry.end;
    }
    if at != data {
        return Err(fault(format_args!(
            "it has {data} bytes of data, its header describes {at}"
        )));
    }
    Ok(())
}

#[derive(serde::Deserialize)]
struct RawEntry {
    dtype: Dtype,
    shape: Vec<usize>,
    data_offsets: (usize, usize),
}

impl<'de> Deserialize<'de> for Header {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(HeaderVisitor)
    }
}

struct HeaderVisitor;

impl<'de> Visitor<'de> for HeaderVisitor {
    type Value = Header;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object of tensors")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Header, A::Error> {
        let mut header = Header {
            tensors: BTreeMap::new(),
            metadata: BTreeMap::new(),
        };
        while let Some(name) = map.next_key::<String>()? {
            if name == "__metadata__" {
                header.metadata = map.next_value()?;
                continue;
            }
            let raw: RawEntry = map
                .next_value()
                .map_err(|e| A::Error::custom(format_args!("{}: {e}", shown(&name))))?;
            let entry = Entry {
                dtype: raw.dtype,
                shape: raw.shape,
                start: raw.data_offsets.0,
                end: raw.data_offsets.1,
            };
            if header.tensors.insert(name.clone(), entry).is_some() {
                return Err(A::Error::custom(format_args!(
                    "{} stands twice",
                    shown(&name)
                )));
            }
        }
        Ok(header)
    }
}
