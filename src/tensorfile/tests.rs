use super::*;
use std::fs;

const CODES: Codes = Codes::MODEL;

fn raw(dir: &Path, header: &str, data: &[u8]) -> PathBuf {
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend_from_slice(header.as_bytes());
    bytes.extend_from_slice(data);
    let path = dir.join("a.safetensors");
    fs::write(&path, bytes).unwrap();
    path
}

fn fault(header: &str, data: usize) -> Error {
    let dir = tempfile::tempdir().unwrap();
    let path = raw(dir.path(), header, &vec![0; data]);
    let error = TensorFile::open(&path, CODES).unwrap_err();
    assert!(error.about.contains("a.safetensors"), "{error}");
    assert!(!error.to_string().contains('\n'), "{error}");
    error
}

#[test]
fn what_is_written_is_read_back() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("t.safetensors");
    let floats = [1.5_f32, -2.0, 0.0, 3.25, 1e-30, f32::INFINITY];
    let doubles = [0.1_f64, 0.2];
    let longs = [7_i64, -1];
    let metadata = BTreeMap::from([("a".to_owned(), "b".to_owned())]);
    let tensors = [
        TensorOut::new("odd", Dtype::U8, &[3], &[1, 2, 3]),
        TensorOut::f32("x", &[2, 3], &floats),
        TensorOut::new("d", Dtype::F64, &[2], bytemuck::cast_slice(&doubles)),
        TensorOut::new("i", Dtype::I64, &[2], bytemuck::cast_slice(&longs)),
        TensorOut::new("none", Dtype::F32, &[0, 4], &[]),
    ];
    write(&path, &metadata, &tensors).unwrap();
    let file = TensorFile::open(&path, CODES).unwrap();
    assert_eq!(file.metadata(), &metadata);
    assert_eq!(
        file.names().collect::<Vec<_>>(),
        ["d", "i", "none", "odd", "x"]
    );
    // `x` begins at an odd byte: the values are copied instead of borrowed.
    assert_eq!(*file.tensor("x").unwrap().f32().unwrap(), floats);
    assert_eq!(file.tensor("d").unwrap().f64().unwrap(), doubles);
    assert_eq!(file.tensor("i").unwrap().i64().unwrap(), longs);
    assert_eq!(file.tensor("odd").unwrap().u8().unwrap(), [1, 2, 3]);
    assert_eq!(file.tensor("odd").unwrap().u32().unwrap(), [1, 2, 3]);
    assert_eq!(file.tensor("none").unwrap().elements(), 0);
    let mut part = [0.0; 2];
    file.tensor("x").unwrap().read_f32(3..5, &mut part).unwrap();
    assert_eq!(part, [3.25, 1e-30]);
    let again = dir.path().join("again.safetensors");
    write(&again, &metadata, &tensors).unwrap();
    assert_eq!(fs::read(path).unwrap(), fs::read(again).unwrap());
}

#[test]
fn the_reader_of_the_format_accepts_what_is_written() {
    let values = [1.0_f32, 2.0];
    let mut bytes = encode_header(&BTreeMap::new(), &[TensorOut::f32("x", &[2], &values)]);
    bytes.extend_from_slice(bytemuck::cast_slice(&values));
    let theirs = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    assert_eq!(theirs.tensor("x").unwrap().shape(), [2]);
}

#[test]
fn half_floats_widen_exactly() {
    let dir = tempfile::tempdir().unwrap();
    let header = r#"{"h":{"dtype":"F16","shape":[2],"data_offsets":[0,4]},"b":{"dtype":"BF16","shape":[2],"data_offsets":[4,8]}}"#;
    let path = raw(
        dir.path(),
        header,
        &[0x00, 0x3e, 0x01, 0x00, 0xc0, 0x3f, 0x80, 0xff],
    );
    let file = TensorFile::open(path, CODES).unwrap();
    let f16 = file.tensor("h").unwrap().f32().unwrap();
    assert_eq!(*f16, [1.5, 2.0_f32.powi(-24)]);
    let bf16 = file.tensor("b").unwrap().f32().unwrap();
    assert_eq!(*bf16, [1.5, f32::NEG_INFINITY]);
}

#[test]
fn malformed_headers_name_the_tensor_and_the_fault() {
    let cases = [
        (
            r#"{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"b":{"dtype":"F32","shape":[2],"data_offsets":[4,12]}}"#,
            12,
            "b",
        ),
        (
            r#"{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}"#,
            7,
            "truncated",
        ),
        (
            r#"{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}"#,
            9,
            "describes 8",
        ),
        (
            r#"{"a":{"dtype":"F32","shape":[3],"data_offsets":[0,8]}}"#,
            8,
            "a: bytes 0..8",
        ),
        (
            r#"{"a":{"dtype":"F32","shape":[4294967296,4294967296],"data_offsets":[0,8]}}"#,
            8,
            "overflows",
        ),
        (
            r#"{"a":{"dtype":"F32","shape":[2],"data_offsets":[8,0]}}"#,
            8,
            "a: bytes 8..0",
        ),
        (
            r#"{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,18446744073709551615]}}"#,
            8,
            "a: bytes",
        ),
        (
            r#"{"a":{"dtype":"F99","shape":[2],"data_offsets":[0,8]}}"#,
            8,
            "F99",
        ),
        (
            r#"{"a":{"dtype":"F32","shape":[-2],"data_offsets":[0,8]}}"#,
            8,
            "a: ",
        ),
        (
            r#"{"a\n\u001b[31m":{"dtype":"F32","shape":[3],"data_offsets":[0,8]}}"#,
            8,
            "a\\n\\u{1b}[31m",
        ),
        (
            r#"{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"a":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}}"#,
            8,
            "twice",
        ),
        ("[1, 2]", 0, "not valid"),
        ("", 0, "not valid"),
    ];
    for (header, data, expected) in cases {
        let error = fault(header, data);
        assert_eq!(error.code, Code::ModelFileCorrupt);
        assert!(
            error.to_string().contains(expected),
            "{header}\n{error} lacks {expected}"
        );
    }
}

/// behaviour: train-11
#[test]
fn a_file_cut_at_any_place_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("t.safetensors");
    write(
        &path,
        &BTreeMap::new(),
        &[TensorOut::f32("x", &[4], &[1.0; 4])],
    )
    .unwrap();
    let whole = fs::read(&path).unwrap();
    for cut in 0..whole.len() {
        fs::write(&path, &whole[..cut]).unwrap();
        let error = TensorFile::open(&path, CODES).unwrap_err();
        assert_eq!(error.code, Code::ModelFileCorrupt, "cut at {cut}");
    }
}

#[test]
fn a_header_bomb_is_refused_before_it_is_parsed() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("bomb.safetensors");
    for claim in [MAX_HEADER as u64 + 1, u64::MAX] {
        let mut bytes = claim.to_le_bytes().to_vec();
        bytes.resize(bytes.len() + 64, b'{');
        fs::write(&path, bytes).unwrap();
        let error = TensorFile::open(&path, CODES).unwrap_err();
        assert_eq!(error.code, Code::ModelFileCorrupt);
        assert!(error.message.contains("header claims"), "{error}");
    }
}

#[test]
fn missing_files_and_tensors_and_wrong_shapes_have_codes_of_their_own() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("t.safetensors");
    let error = TensorFile::open(&path, CODES).unwrap_err();
    assert_eq!(error.code, Code::ModelMissing);
    write(
        &path,
        &BTreeMap::new(),
        &[TensorOut::f32("x", &[4], &[1.0; 4])],
    )
    .unwrap();
    let file = TensorFile::open(&path, CODES).unwrap();
    let Err(error) = file.tensor("y") else {
        panic!("y is not there")
    };
    assert_eq!(error.code, Code::ModelTensorMismatch);
    let x = file.tensor("x").unwrap();
    let Err(error) = x.expect_shape(&[2, 2]) else {
        panic!("x is flat")
    };
    assert!(error.to_string().contains("[4], expected [2, 2]"));
    assert_eq!(x.i64().unwrap_err().code, Code::ModelTensorMismatch);
}

fn shard(dir: &Path, name: &str, tensor: &str) {
    let tensors = [TensorOut::f32(tensor, &[1], &[1.0])];
    write(&dir.join(name), &BTreeMap::new(), &tensors).unwrap();
}

#[test]
fn shards_are_found_through_their_index() {
    let dir = tempfile::tempdir().unwrap();
    shard(dir.path(), "s1.safetensors", "a");
    shard(dir.path(), "s2.safetensors", "b");
    let index = dir.path().join("model.safetensors.index.json");
    fs::write(
        &index,
        r#"{"metadata":{"total_size":8},"weight_map":{"a":"s1.safetensors","b":"s2.safetensors"}}"#,
    )
    .unwrap();
    let set = TensorSet::open(dir.path(), CODES).unwrap();
    assert_eq!(set.names().collect::<Vec<_>>(), ["a", "b"]);
    assert!(set.get("b").is_some());
    let Err(error) = set.tensor("c") else {
        panic!("c is not there")
    };
    assert_eq!(error.code, Code::ModelTensorMismatch);
}

#[test]
fn an_index_that_leads_astray_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir(dir.path().join("m")).unwrap();
    shard(dir.path(), "out.safetensors", "a");
    shard(&dir.path().join("m"), "in.safetensors", "a");
    let index = dir.path().join("m/model.safetensors.index.json");
    let cases = [
        (
            r#"{"weight_map":{"a":"../out.safetensors"}}"#,
            Code::ModelFileCorrupt,
        ),
        (
            r#"{"weight_map":{"a":"/etc/passwd"}}"#,
            Code::ModelFileCorrupt,
        ),
        (r#"{"weight_map":{"a":".."}}"#, Code::ModelFileCorrupt),
        (
            r#"{"weight_map":{"a":"in.safetensors/"}}"#,
            Code::ModelFileCorrupt,
        ),
        (
            r#"{"weight_map":{"a":"in.safetensors\u0000"}}"#,
            Code::ModelFileCorrupt,
        ),
        (r#"{"weight_map":{"a":""}}"#, Code::ModelFileCorrupt),
        (r#"{"weight_map":{}}"#, Code::ModelFileCorrupt),
        (r#"{"weight_map":"#, Code::ModelFileCorrupt),
        (
            r#"{"weight_map":{"a":"gone.safetensors"}}"#,
            Code::ModelMissing,
        ),
        (
            r#"{"weight_map":{"b":"in.safetensors"}}"#,
            Code::ModelTensorMismatch,
        ),
    ];
    for (text, code) in cases {
        fs::write(&index, text).unwrap();
        let Err(error) = TensorSet::open(dir.path().join("m"), CODES) else {
            panic!("{text} was accepted")
        };
        assert_eq!(error.code, code, "{text}: {error}");
    }
}

#[test]
fn a_folder_without_weights_says_what_belongs_there() {
    let dir = tempfile::tempdir().unwrap();
    let Err(error) = TensorSet::open(dir.path(), CODES) else {
        panic!("there are no weights")
    };
    assert_eq!(error.code, Code::ModelMissing);
    assert!(error.hint.contains("model.safetensors.index.json"));
}
