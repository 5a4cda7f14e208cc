//! TensorBoard's event files: records of TFRecord with an `Event` of protocol buffers each.
//!
//! A record is its length (8 bytes, little endian), the masked CRC-32C of these, the data,
//! and the masked CRC-32C of that.

/// The first record of a file.
pub fn version(seconds: f64) -> Vec<u8> {
    let mut event = Message::default();
    event.double(1, seconds);
    event.bytes(3, b"brain.Event:2");
    record(&event.0)
}

/// A record with the values of one step.
pub fn scalars(seconds: f64, step: u64, values: &[(String, f64)]) -> Vec<u8> {
    let mut summary = Message::default();
    for (tag, value) in values {
        let mut scalar = Message::default();
        scalar.bytes(1, tag.as_bytes());
        // As in every such file: `simple_value` is a single.
        scalar.float(2, *value as f32);
        summary.bytes(1, &scalar.0);
    }
    let mut event = Message::default();
    event.double(1, seconds);
    event.varint(2, step);
    event.bytes(5, &summary.0);
    record(&event.0)
}

fn record(data: &[u8]) -> Vec<u8> {
    let length = (data.len() as u64).to_le_bytes();
    [&length[..], &masked(&length), data, &masked(data)].concat()
}

/// The checksum of a record: rotated and shifted, so that the checksum of a file of
/// checksums is no constant.
fn masked(data: &[u8]) -> [u8; 4] {
    let crc = crc32c::crc32c(data);
    crc.rotate_right(15).wrapping_add(0xa282_ead8).to_le_bytes()
}

/// A message of protocol buffers being written.
#[derive(Default)]
struct Message(Vec<u8>);

impl Message {
    fn number(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.0.push(value as u8 | 0x80);
            value >>= 7;
        }
        self.0.push(value as u8);
    }

    fn key(&mut self, field: u64, wire_type: u64) {
        self.number(field << 3 | wire_type);
    }

    fn varint(&mut self, field: u64, value: u64) {
        self.key(field, 0);
        self.number(value);
    }

    fn double(&mut self, field: u64, value: f64) {
        self.key(field, 1);
        self.0.extend(value.to_le_bytes());
    }

    fn bytes(&mut self, field: u64, value: &[u8]) {
        self.key(field, 2);
        self.number(value.len() as u64);
        self.0.extend(value);
    }

    fn float(&mut self, field: u64, value: f32) {
        self.key(field, 5);
        self.0.extend(value.to_le_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Those were written by the `RecordWriter` of the Python package tensorboard 2.21.0.
    #[test]
    fn records_are_those_of_tensorboards_own_writer() {
        let hex = |bytes: &[u8]| bytes.iter().map(|b| format!("{b:02x}")).collect::<String>();
        assert_eq!(
            hex(&version(1_764_115_200.0)),
            "1800000000000000a37f4b2209000000c09049da411a0d627261696e2e4576656e743a320613b69a"
        );
        let values = [("loss".to_owned(), 0.5), ("a/l0".to_owned(), 8.1)];
        assert_eq!(
            hex(&scalars(1_764_115_200.5, 300, &values)),
            "2800000000000000ff70164a09000020c09049da4110ac022a1a0a0b0a046c6f7373150000003f0a0b0a\
             04612f6c30159a9901412b4ed06e"
        );
    }
}
