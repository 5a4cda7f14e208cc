//! A second reading of `ae.pt`, independent of the code that writes it: a zip reader that
//! insists on what PyTorch relies on, and a machine for the pickle opcodes of a state dict.

use std::collections::BTreeMap;

fn u16_at(bytes: &[u8], at: usize) -> usize {
    u16::from_le_bytes(bytes[at..at + 2].try_into().unwrap()).into()
}

fn u32_at(bytes: &[u8], at: usize) -> usize {
    u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap()) as usize
}

/// CRC-32 (ISO 3309), a bit at a time.
fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(u32::MAX, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| {
            (crc >> 1) ^ (0xedb8_8320 & (crc & 1).wrapping_neg())
        })
    })
}

/// The files of a zip archive, in the order of its directory.
pub fn unzip(bytes: &[u8]) -> Vec<(String, &[u8])> {
    let end = bytes.len() - 22;
    assert_eq!(&bytes[end..end + 4], b"PK\x05\x06", "no end record");
    let (count, length, start) = (
        u16_at(bytes, end + 10),
        u32_at(bytes, end + 12),
        u32_at(bytes, end + 16),
    );
    assert_eq!(start + length, end, "the directory ends elsewhere");
    let mut files = Vec::new();
    let mut at = start;
    let mut next = 0;
    for _ in 0..count {
        let entry = &bytes[at..];
        assert_eq!(&entry[..4], b"PK\x01\x02");
        assert_eq!(u16_at(entry, 10), 0, "it is compressed");
        let (crc, size, whole) = (u32_at(entry, 16), u32_at(entry, 20), u32_at(entry, 24));
        assert_eq!(size, whole);
        let names = u16_at(entry, 28);
        let name = std::str::from_utf8(&entry[46..46 + names]).unwrap();
        at += 46 + names + u16_at(entry, 30) + u16_at(entry, 32);

        let local = u32_at(entry, 42);
        assert_eq!(local, next, "there is a gap before {name}");
        let header = &bytes[local..];
        assert_eq!(&header[..4], b"PK\x03\x04");
        // Flags, method, time and date stand in both, the name too.
        assert_eq!(&header[4..14], &entry[6..16]);
        assert_eq!(&header[30..30 + names], name.as_bytes());
        let data = local + 30 + names + u16_at(header, 28);
        assert_eq!(data % 64, 0, "{name} is not aligned");
        let content = &bytes[data..data + size];
        assert_eq!(crc32(content) as usize, crc, "checksum of {name}");
        let after = &bytes[data + size..];
        assert_eq!(&after[..4], b"PK\x07\x08");
        assert_eq!(
            [u32_at(after, 4), u32_at(after, 8), u32_at(after, 12)],
            [crc, size, size]
        );
        next = data + size + 16;
        files.push((name.to_owned(), content));
    }
    assert_eq!(at, end);
    assert_eq!(next, start, "there is a gap before the directory");
    files
}

/// A tensor of a state dict.
#[derive(Debug, PartialEq)]
pub struct Tensor {
    /// `FloatStorage`, `IntStorage` or `LongStorage`.
    pub storage: String,
    pub shape: Vec<usize>,
    pub bytes: Vec<u8>,
}

impl Tensor {
    pub fn f32(&self) -> Vec<f32> {
        assert_eq!(self.storage, "FloatStorage");
        let words = self.bytes.as_chunks().0;
        words.iter().map(|b| f32::from_le_bytes(*b)).collect()
    }
}

/// The state dict in the bytes of a `NAME.pt`.
pub fn load(bytes: &[u8], name: &str) -> BTreeMap<String, Tensor> {
    let mut files: BTreeMap<String, &[u8]> = unzip(bytes).into_iter().collect();
    let mut take = |file: &str| files.remove(&format!("{name}/{file}")).unwrap();
    assert_eq!(take("version"), b"3\n");
    assert_eq!(take("byteorder"), b"little");
    let items = run(take("data.pkl"));
    let mut tensors = BTreeMap::new();
    for (key, storage, number, elements, shape, strides) in items {
        let bytes = take(&format!("data/{number}")).to_vec();
        let width = if storage == "LongStorage" { 8 } else { 4 };
        assert_eq!(bytes.len(), elements * width, "{key}");
        assert_eq!(shape.iter().product::<usize>(), elements, "{key}");
        let mut expected = vec![1; shape.len()];
        for i in (1..shape.len()).rev() {
            expected[i - 1] = expected[i] * shape[i];
        }
        assert_eq!(strides, expected, "{key} is not contiguous");
        let tensor = Tensor {
            storage,
            shape,
            bytes,
        };
        assert!(tensors.insert(key, tensor).is_none());
    }
    assert!(files.is_empty(), "left over: {:?}", files.keys());
    tensors
}

#[derive(Clone, Debug)]
enum Value {
    Mark,
    Dict,
    Text(String),
    Int(usize),
    False,
    Tuple(Vec<Value>),
    Global(String),
    /// storage type, key, elements
    Storage(String, String, usize),
    Hooks,
    Tensor(String, String, usize, Vec<usize>, Vec<usize>),
}

/// Name, storage type, storage key, elements, shape, strides.
type Entry = (String, String, String, usize, Vec<usize>, Vec<usize>);

/// Runs the pickle of a state dict. Only the opcodes and globals that
/// `torch.load(weights_only=True)` allows are known.
fn run(pickle: &[u8]) -> Vec<Entry> {
    let mut at = 0;
    let mut stack: Vec<Value> = Vec::new();
    let mut take = |n: usize| {
        at += n;
        &pickle[at - n..at]
    };
    assert_eq!(take(2), b"\x80\x02");
    loop {
        match take(1)[0] {
            b'}' => stack.push(Value::Dict),
            b'(' => stack.push(Value::Mark),
            b')' => stack.push(Value::Tuple(Vec::new())),
            b'\x89' => stack.push(Value::False),
            b'X' => {
                let length = u32_at(take(4), 0);
                let text = String::from_utf8(take(length).to_vec()).unwrap();
                stack.push(Value::Text(text));
            }
            b'J' => stack.push(Value::Int(u32_at(take(4), 0))),
            b'c' => {
                let mut line = || {
                    let mut line = String::new();
                    loop {
                        match take(1)[0] {
                            b'\n' => break line,
                            byte => line.push(byte as char),
                        }
                    }
                };
                let (module, name) = (line(), line());
                stack.push(Value::Global(format!("{module}.{name}")));
            }
            b't' => {
                let mark = stack
                    .iter()
                    .rposition(|v| matches!(v, Value::Mark))
                    .unwrap();
                let tuple = Value::Tuple(stack.split_off(mark + 1));
                *stack.last_mut().unwrap() = tuple;
            }
            b'Q' => {
                let id = stack.pop().unwrap();
                stack.push(storage(id));
            }
            b'R' => {
                let arguments = stack.pop().unwrap();
                let function = stack.pop().unwrap();
                stack.push(call(function, arguments));
            }
            b'u' => {
                let mark = stack
                    .iter()
                    .rposition(|v| matches!(v, Value::Mark))
                    .unwrap();
                let items = stack.split_off(mark + 1);
                assert!(matches!(stack[..], [Value::Dict, Value::Mark]));
                assert_eq!(take(1), b".", "the pickle goes on");
                assert_eq!(at, pickle.len(), "bytes after the end");
                return items.chunks(2).map(entry).collect();
            }
            other => panic!("opcode {other:#04x} is not allowed"),
        }
    }
}

fn storage(id: Value) -> Value {
    let Value::Tuple(id) = id else {
        panic!("{id:?}")
    };
    match &id[..] {
        [
            Value::Text(tag),
            Value::Global(kind),
            Value::Text(key),
            Value::Text(device),
            Value::Int(elements),
        ] if tag == "storage" && device == "cpu" => {
            let kind = kind.strip_prefix("torch.").unwrap().to_owned();
            Value::Storage(kind, key.clone(), *elements)
        }
        other => panic!("persistent id {other:?}"),
    }
}

fn call(function: Value, arguments: Value) -> Value {
    let (Value::Global(function), Value::Tuple(arguments)) = (function, arguments) else {
        panic!("a call of what is no function");
    };
    let numbers = |value: &Value| match value {
        Value::Tuple(values) => values
            .iter()
            .map(|v| match v {
                Value::Int(n) => *n,
                other => panic!("{other:?}"),
            })
            .collect(),
        other => panic!("{other:?}"),
    };
    match (function.as_str(), &arguments[..]) {
        ("collections.OrderedDict", []) => Value::Hooks,
        (
            "torch._utils._rebuild_tensor_v2",
            [
                Value::Storage(kind, key, elements),
                Value::Int(0),
                shape,
                strides,
                Value::False,
                Value::Hooks,
            ],
        ) => Value::Tensor(
            kind.clone(),
            key.clone(),
            *elements,
            numbers(shape),
            numbers(strides),
        ),
        other => panic!("{other:?} is not allowed"),
    }
}

fn entry(pair: &[Value]) -> Entry {
    match pair {
        [
            Value::Text(name),
            Value::Tensor(kind, key, elements, shape, strides),
        ] => (
            name.clone(),
            kind.clone(),
            key.clone(),
            *elements,
            shape.clone(),
            strides.clone(),
        ),
        other => panic!("{other:?}"),
    }
}
