//! Readers against what blocks, batches and damage can do to them.

use super::*;
use std::io::Write;

#[derive(Default)]
struct Collected {
    documents: Vec<String>,
    current: String,
}

impl Sink for Collected {
    fn text(&mut self, part: &str) -> Result<()> {
        self.current.push_str(part);
        Ok(())
    }
    fn end_document(&mut self) -> Result<()> {
        self.documents.push(std::mem::take(&mut self.current));
        Ok(())
    }
}

fn collect(name: &str, bytes: &[u8]) -> Result<Vec<String>> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join(name);
    std::fs::write(&path, bytes).unwrap();
    let mut sink = Collected::default();
    for source in super::super::sources::find(&[path])? {
        documents(&source, "text", &mut sink)?;
    }
    Ok(sink.documents)
}

/// A Parquet file of the columns `id` and an optional `text`, ten rows a group.
pub(in crate::data) fn parquet_file(rows: &[Option<&str>]) -> Vec<u8> {
    use ::parquet::data_type::{ByteArray, ByteArrayType, Int64Type};
    use ::parquet::file::{properties::WriterProperties, writer::SerializedFileWriter};
    let schema = "message m { required int64 id; optional binary text (UTF8); }";
    let schema = ::parquet::schema::parser::parse_message_type(schema).unwrap();
    let properties = WriterProperties::builder()
        .set_compression(::parquet::basic::Compression::SNAPPY)
        .build();
    let mut out = Vec::new();
    let mut file = SerializedFileWriter::new(&mut out, schema.into(), properties.into()).unwrap();
    for rows in rows.chunks(10) {
        let mut group = file.next_row_group().unwrap();
        let mut column = group.next_column().unwrap().unwrap();
        let ids: Vec<i64> = (0..rows.len() as i64).collect();
        let ids = column.typed::<Int64Type>().write_batch(&ids, None, None);
        assert_eq!(ids.unwrap(), rows.len());
        column.close().unwrap();
        let mut column = group.next_column().unwrap().unwrap();
        let texts: Vec<ByteArray> = rows.iter().flatten().map(|&t| t.into()).collect();
        let levels: Vec<i16> = rows.iter().map(|r| i16::from(r.is_some())).collect();
        column
            .typed::<ByteArrayType>()
            .write_batch(&texts, Some(&levels), None)
            .unwrap();
        column.close().unwrap();
        group.close().unwrap();
    }
    file.close().unwrap();
    out
}

#[test]
fn a_text_file_is_one_document_wherever_blocks_cut_its_characters() {
    for shift in 0..4 {
        let text = format!("{}{}", "a".repeat(shift), "é€𝄞x".repeat(70_000));
        assert!(text.len() > 256 << 10);
        assert_eq!(collect("a.txt", text.as_bytes()).unwrap(), [text.as_str()]);
        let mut bytes = text.into_bytes();
        let at = bytes.len();
        bytes.extend("é".as_bytes());
        bytes.pop();
        let error = collect("a.txt", &bytes).unwrap_err();
        assert!(error.message.contains(&format!("at byte {at} ")), "{error}");
    }
}

#[test]
fn a_byte_order_mark_is_not_text() {
    assert_eq!(collect("a.txt", "\u{feff}hi".as_bytes()).unwrap(), ["hi"]);
    let json = "\u{feff}{\"text\": \"hi\"}".as_bytes();
    assert_eq!(collect("a.jsonl", json).unwrap(), ["hi"]);
    let csv = "\u{feff}text,b\nhi,1\n".as_bytes();
    assert_eq!(collect("a.csv", csv).unwrap(), ["hi"]);
}

#[test]
fn every_parquet_row_is_read_over_pages_and_groups() {
    let rows: Vec<String> = (0..1000).map(|i| format!("row {i} é")).collect();
    let refs: Vec<Option<&str>> = rows.iter().map(|r| Some(r.as_str())).collect();
    assert_eq!(collect("a.parquet", &parquet_file(&refs)).unwrap(), rows);
}

#[test]
fn a_null_in_parquet_is_named_by_its_row() {
    let mut rows = vec![Some("x"); 95];
    rows[87] = None;
    let error = collect("a.parquet", &parquet_file(&rows)).unwrap_err();
    assert_eq!(error.code, Code::DataRowInvalid);
    assert!(error.about.ends_with("a.parquet: row 88"), "{error}");
}

/// behaviour: train-11
#[test]
fn damaged_parquet_is_an_error_and_never_a_panic() {
    let rows: Vec<String> = (0..40).map(|i| format!("row number {i}")).collect();
    let refs: Vec<Option<&str>> = rows.iter().map(|r| Some(r.as_str())).collect();
    let good = parquet_file(&refs);
    for cut in [0, 4, 11, good.len() / 2, good.len() - 1] {
        let error = collect("a.parquet", &good[..cut]).unwrap_err();
        assert_eq!(error.code, Code::DataRowInvalid, "{cut}: {error}");
    }
    for at in (0..good.len()).step_by(7) {
        let mut bytes = good.clone();
        bytes[at] ^= 0x55;
        if let Err(error) = collect("a.parquet", &bytes) {
            assert!(!error.to_string().contains('\n'), "{error}");
        }
    }
}

#[test]
fn a_row_without_end_stops_the_reader() {
    let dir = tempfile::tempdir().unwrap();
    for (name, start) in [("a.jsonl", "{\"text\": \""), ("a.csv", "text\n\"")] {
        let path = dir.path().join(name);
        let mut file = std::fs::File::create(&path).unwrap();
        file.write_all(start.as_bytes()).unwrap();
        // Sparse: it takes no disk, and reads as zeros.
        file.set_len(MAX_ROW * 4).unwrap();
        let source = &super::super::sources::find(&[path]).unwrap()[0];
        let error = documents(source, "text", &mut Collected::default()).unwrap_err();
        assert_eq!(error.code, Code::DataRowInvalid);
        assert!(error.message.contains("longer than"), "{error}");
        assert!(error.about.ends_with(": row 1"), "{error}");
    }
}

#[test]
fn names_from_files_stay_on_one_line() {
    assert_eq!(shown("a\nb\u{1b}[1m"), "a\\nb\\u{1b}[1m");
    assert_eq!(shown(&"é".repeat(100)).chars().count(), 61);
}
