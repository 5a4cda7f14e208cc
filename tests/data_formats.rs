//! Text in every format, good and bad, to contexts.

use backpropd::data::{ModelTokens, Packing, Separator, TokenSet, TokenSettings};
use backpropd::domain::{Code, Error, Result};
use std::path::{Path, PathBuf};

const MODEL: ModelTokens = ModelTokens {
    vocab_size: 2048,
    bos: Some(0),
    eos: Some(0),
    pad: None,
};

fn tokenizer() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/quickstart/model/tokenizer.json")
}

fn settings(path: &Path) -> TokenSettings {
    TokenSettings {
        context_size: 16,
        packing: Packing::OnePerContext,
        prepend_bos: false,
        holdout: 0.0,
        ..TokenSettings::new(path)
    }
}

fn build(settings: &TokenSettings) -> Result<TokenSet> {
    let cache = tempfile::tempdir().unwrap();
    TokenSet::open_or_build(
        settings,
        &tokenizer(),
        &MODEL,
        cache.path(),
        &mut |_| Ok(()),
    )
}

/// The error of a file `name` with `content`, of which the folder is taken away.
fn refusal(name: &str, content: &[u8]) -> Error {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join(name);
    std::fs::write(&path, content).unwrap();
    let mut error = build(&settings(&path)).unwrap_err();
    let prefix = format!("{}/", dir.path().display());
    error.about = error.about.replace(&prefix, "");
    error.message = error.message.replace(&prefix, "");
    error
}

/// Each document on its own: the ids of the documents that `path` holds.
fn documents(path: &Path) -> Vec<Vec<u32>> {
    let set = build(&settings(path)).unwrap();
    let ids = |i| {
        let context = set.context(i);
        context.ids[..context.len].to_vec()
    };
    (0..set.contexts()).map(ids).collect()
}

/// behaviour: data-02
#[test]
fn every_format_gives_the_same_documents() {
    let dir = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &[u8]| {
        let path = dir.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, text).unwrap();
        path
    };
    let json = write(
        "one/a.jsonl",
        b"{\"id\": 1, \"text\": \"It is a truth, \\\"universally\\\" known\"}\n\n\
          {\"text\": \"caf\\u00e9\\nnext line\", \"meta\": {\"text\": [1, 2]}}",
    );
    let csv = write(
        "one/b.CSV",
        "id,text\n1,\"It is a truth, \"\"universally\"\" known\"\n2,\"café\nnext line\"\n"
            .as_bytes(),
    );
    let first = write("two/1.txt", b"It is a truth, \"universally\" known");
    write("two/2.txt", "café\nnext line".as_bytes());
    write("two/notes.md", b"not a text that is read");
    write("two/.hidden.txt", b"nor this");

    let expected = documents(&json);
    assert_eq!(expected.len(), 2);
    assert_eq!(documents(&csv), expected);
    assert_eq!(documents(first.parent().unwrap()), expected);
    // As pandas and the Hub write it: dictionary, zstd, pages of version 2, a list column.
    let parquet = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/two-rows.parquet");
    assert_eq!(documents(&parquet), expected);
    let all = documents(dir.path());
    assert_eq!(all, [&expected[..], &expected, &expected].concat());
}

/// behaviour: data-08
#[test]
fn bad_rows_are_named_by_file_and_row() {
    let cases: [(&str, &[u8], &str, &str); 11] = [
        (
            "a.jsonl",
            b"{\"text\": \"x\"}\n{\"text\": \n",
            "a.jsonl: row 2",
            "EOF",
        ),
        (
            "a.jsonl",
            b"{\"text\": \"x\"} {}\n",
            "a.jsonl: row 1",
            "trailing",
        ),
        ("a.jsonl", b"[1]\n", "a.jsonl: row 1", "JSON object"),
        ("a.jsonl", b"{\"text\": 5}\n", "a.jsonl: row 1", "string"),
        ("a.jsonl", b"{\"text\": null}\n", "a.jsonl: row 1", "null"),
        (
            "a.jsonl",
            b"{\"text\": \"x\"}\n{\"text\": \"a\xff\"}\n",
            "a.jsonl: row 2",
            "UTF-8 at byte 25",
        ),
        ("a.csv", b"text,b\nx,1\ny\n", "a.csv: row 2", "1 fields"),
        (
            "a.csv",
            b"text,b\nx,1\n\xfe,1\n",
            "a.csv: row 2",
            "UTF-8 (the row begins at byte 11",
        ),
        ("a.txt", b"abc\xffdef", "a.txt", "UTF-8 at byte 3"),
        ("a.txt", b"\xff\xfea\0", "a.txt", "UTF-8 at byte 0"),
        ("a.parquet", b"PAR1 not really", "a.parquet", "Parquet"),
    ];
    for (name, content, about, message) in cases {
        let error = refusal(name, content);
        assert_eq!(error.code, Code::DataRowInvalid, "{error}");
        assert_eq!(error.about, about, "{error}");
        assert!(error.message.contains(message), "{error}");
        assert!(!error.hint.is_empty() && !error.to_string().contains('\n'));
    }
}

/// behaviour: data-08
#[test]
fn a_missing_column_names_those_that_exist() {
    let error = refusal("a.csv", b"id,body\n1,x\n");
    assert_eq!(error.code, Code::DataColumnMissing);
    assert!(
        error
            .message
            .contains("no column `text`; its columns are id, body"),
        "{error}"
    );
    let error = refusal(
        "a.jsonl",
        b"{\"text\": \"x\"}\n{\"body\": \"x\", \"id\": 1}\n",
    );
    assert_eq!(error.code, Code::DataColumnMissing);
    assert_eq!(error.about, "a.jsonl: row 2");
    assert!(error.message.contains("columns are body, id"), "{error}");
    let error = refusal("a.csv", b"");
    assert_eq!(error.code, Code::DataColumnMissing, "{error}");
    let parquet = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/two-rows.parquet");
    for (column, message) in [
        ("body", "its columns are id, tags.list.element, text"),
        ("id", "`id` is INT64, not text"),
        ("tags.list.element", "a list of BYTE_ARRAY, not text"),
    ] {
        let settings = TokenSettings {
            text_column: column.into(),
            ..settings(&parquet)
        };
        let error = build(&settings).unwrap_err();
        assert_eq!(error.code, Code::DataColumnMissing);
        assert!(error.message.contains(message), "{error}");
    }
}

#[test]
fn a_text_without_content_is_empty() {
    for (name, content) in [
        ("a.txt", &b""[..]),
        ("a.txt", b" \n\t\n"),
        ("a.jsonl", b""),
        ("a.jsonl", b"{\"text\": \"\"}\n{\"text\": \"  \"}\n"),
        ("a.csv", b"text\n"),
    ] {
        let error = refusal(name, content);
        assert_eq!(error.code, Code::DataEmpty, "{name} {content:?}: {error}");
        assert_eq!(error.about, name);
    }
}

/// behaviour: engine-13
#[test]
fn what_is_not_there_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let error = build(&settings(&dir.path().join("none.txt"))).unwrap_err();
    assert_eq!(error.code, Code::DataMissing);
    assert!(error.about.ends_with("none.txt"), "{error}");
    let error = build(&settings(dir.path())).unwrap_err();
    assert_eq!(error.code, Code::DataMissing);
    assert!(error.message.contains(".parquet"), "{error}");
    let error = refusal("a.pdf", b"x");
    assert_eq!(
        (error.code, error.about.as_str()),
        (Code::ConfigInvalid, "data.path")
    );
    let text = dir.path().join("a.txt");
    std::fs::write(&text, "some text").unwrap();
    let missing = dir.path().join("tokenizer.json");
    let cache = dir.path().join("cache");
    let run = |tokenizer: &Path, model| {
        let progress = &mut |_: backpropd::data::Progress<'_>| Ok(());
        TokenSet::open_or_build(&settings(&text), tokenizer, model, &cache, progress).unwrap_err()
    };
    assert_eq!(run(&missing, &MODEL).code, Code::TokenizerInvalid);
    std::fs::write(&missing, "{\"version\": \"1.0\"}").unwrap();
    assert_eq!(run(&missing, &MODEL).code, Code::TokenizerInvalid);
    let small = ModelTokens {
        vocab_size: 2000,
        ..MODEL
    };
    let error = run(&tokenizer(), &small);
    assert_eq!(error.code, Code::TokenizerInvalid);
    assert!(
        error.message.contains("2047") && error.message.contains("2000"),
        "{error}"
    );
}

#[test]
fn impossible_settings_are_refused_by_key() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.txt");
    std::fs::write(&path, "some text").unwrap();
    let base = settings(&path);
    let cases = [
        (
            "data.context_size",
            TokenSettings {
                context_size: 0,
                ..base.clone()
            },
        ),
        (
            "data.context_size",
            TokenSettings {
                context_size: 1,
                prepend_bos: true,
                ..base.clone()
            },
        ),
        (
            "data.holdout",
            TokenSettings {
                holdout: 0.6,
                ..base.clone()
            },
        ),
        (
            "data.holdout",
            TokenSettings {
                holdout: f64::NAN,
                ..base.clone()
            },
        ),
        (
            "data.text_column",
            TokenSettings {
                text_column: String::new(),
                ..base.clone()
            },
        ),
        (
            "data.separator",
            TokenSettings {
                packing: Packing::Concat,
                separator: Separator::Token("<nope>".into()),
                ..base.clone()
            },
        ),
    ];
    for (key, settings) in cases {
        let error = build(&settings).unwrap_err();
        assert_eq!(
            (error.code, error.about.as_str()),
            (Code::ConfigInvalid, key),
            "{error}"
        );
    }
    let settings = TokenSettings {
        prepend_bos: true,
        ..base
    };
    let model = ModelTokens { bos: None, ..MODEL };
    let error =
        TokenSet::open_or_build(&settings, &tokenizer(), &model, dir.path(), &mut |_| Ok(()))
            .unwrap_err();
    assert_eq!(error.about, "data.prepend_bos");
}

#[test]
fn settings_read_from_toml_refuse_unknown_keys() {
    let text = "path = \"a\"\nseparator = \"<|endoftext|>\"\npacking = \"one_per_context\"\n\
                exclude_special_tokens = [3, \"<|endoftext|>\"]\n";
    let read: TokenSettings = toml::from_str(text).unwrap();
    assert_eq!(read.packing, Packing::OnePerContext);
    assert_eq!(read.separator, Separator::Token("<|endoftext|>".into()));
    let again: TokenSettings = toml::from_str(&toml::to_string(&read).unwrap()).unwrap();
    assert_eq!(again, read);
    assert_eq!(
        toml::from_str::<TokenSettings>("path = \"a\"").unwrap(),
        TokenSettings::new("a")
    );
    let error = toml::from_str::<TokenSettings>("path = \"a\"\ncolumn = 1").unwrap_err();
    assert!(error.message().contains("unknown field `column`"));
    let error = toml::from_str::<TokenSettings>("path = \"a\"\nexclude_special_tokens = 1");
    assert!(
        error
            .unwrap_err()
            .message()
            .contains("true, false, or a list")
    );
}
