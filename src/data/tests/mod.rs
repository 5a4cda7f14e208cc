//! Token sets: packing, masks, cuts, the cache and its faults.

mod faults;
mod stride;

use super::read::tests::parquet_file;
use super::tokenizer::PIECE;
use super::*;
use crate::domain::{Code, Error, Result};
use std::path::{Path, PathBuf};

const MODEL: ModelTokens = ModelTokens {
    vocab_size: 2048,
    bos: Some(0),
    eos: Some(0),
    pad: None,
};

fn quickstart(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("examples/quickstart")
        .join(name)
}

fn tokenizer_file() -> PathBuf {
    quickstart("model/tokenizer.json")
}

fn tokenizer() -> Tokenizer {
    Tokenizer::load(&tokenizer_file(), 2048).unwrap()
}

/// One document a line, and a cache, in a folder of their own.
struct Bench {
    dir: tempfile::TempDir,
    settings: TokenSettings,
}

impl Bench {
    fn new(documents: &[&str]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("text.jsonl");
        let bench = Self {
            dir,
            settings: TokenSettings {
                context_size: 8,
                holdout: 0.0,
                ..TokenSettings::new(path)
            },
        };
        bench.write(documents);
        bench
    }

    fn write(&self, documents: &[&str]) {
        let row = |text: &&str| format!("{}\n", serde_json::json!({ "text": text }));
        let rows: String = documents.iter().map(row).collect();
        std::fs::write(self.text(), rows).unwrap();
    }

    fn text(&self) -> &Path {
        &self.settings.path.0[0]
    }

    fn cache(&self) -> PathBuf {
        self.dir.path().join("cache")
    }

    /// The token set, and what was rebuilt.
    fn build_as(&self, settings: &TokenSettings, model: &ModelTokens) -> (TokenSet, Vec<Error>) {
        let mut rebuilt = Vec::new();
        let progress = &mut |p: Progress<'_>| {
            if let Progress::Rebuilding(error) = p {
                rebuilt.push(error.clone());
            }
            Ok(())
        };
        let set =
            TokenSet::open_or_build(settings, &tokenizer_file(), model, &self.cache(), progress);
        (set.unwrap(), rebuilt)
    }

    fn build(&self) -> (TokenSet, Vec<Error>) {
        self.build_as(&self.settings, &MODEL)
    }

    fn file(&self) -> PathBuf {
        let mut files: Vec<PathBuf> = std::fs::read_dir(self.cache())
            .unwrap()
            .map(|e| e.unwrap().path())
            .filter(|p| p.extension().is_some_and(|e| e == "bin"))
            .collect();
        assert_eq!(files.len(), 1);
        files.remove(0)
    }
}

fn contexts(set: &TokenSet) -> Vec<Context> {
    (0..set.contexts()).map(|i| set.context(i)).collect()
}

const TEXTS: [&str; 3] = [
    "It is a truth universally acknowledged, that a single man must be in want of a wife.",
    "No one who had ever seen Catherine.",
    "Emma Woodhouse, handsome, clever, and rich.",
];

#[test]
fn documents_are_joined_by_separators_and_cut_behind_a_bos() {
    let bench = Bench::new(&TEXTS);
    let (set, _) = bench.build();
    let ids: Vec<Vec<u32>> = TEXTS.map(|t| tokenizer().encode(t).unwrap()).into();
    // The reference: one stream, a separator (0) between, cut in 7, a BOS (0) before each;
    // a separator right behind a BOS of the same id is left out.
    let mut expected = vec![vec![0]];
    for (i, document) in ids.iter().enumerate() {
        for &id in [0].iter().filter(|_| i > 0).chain(document) {
            if expected.last().unwrap().len() == 8 {
                expected.push(vec![0]);
            }
            if id != 0 || expected.last().unwrap().len() > 1 {
                expected.last_mut().unwrap().push(id);
            }
        }
    }
    let found = contexts(&set);
    let tokens: Vec<Vec<u32>> = found.iter().map(|c| c.ids[..c.len].to_vec()).collect();
    assert_eq!(tokens, expected);
    for context in &found {
        assert_eq!(context.ids.len(), 8);
        let valid: Vec<usize> = context.valid_positions().collect();
        let expected: Vec<usize> = (0..context.len).filter(|&p| context.ids[p] != 0).collect();
        assert_eq!(valid, expected);
        assert_eq!(context.valid_count(), expected.len());
    }
    let counts = set.accounting();
    let lengths: usize = ids.iter().map(Vec::len).sum();
    assert_eq!((counts.documents, counts.tokens), (3, lengths as u64));
    assert_eq!(counts.mean_document(), lengths as f64 / 3.0);
    assert_eq!(counts.pads, 8 - found.last().unwrap().len as u64);
    assert_eq!(set.training_tokens(), lengths as u64);
}

#[test]
fn one_document_a_context_is_cut_or_padded() {
    let bench = Bench::new(&[TEXTS[0], "", "Emma"]);
    let settings = TokenSettings {
        packing: Packing::OnePerContext,
        prepend_bos: false,
        ..bench.settings.clone()
    };
    let model = ModelTokens {
        pad: Some(7),
        ..MODEL
    };
    let (set, _) = bench.build_as(&settings, &model);
    let long = tokenizer().encode(TEXTS[0]).unwrap();
    let short = tokenizer().encode("Emma").unwrap();
    let found = contexts(&set);
    assert_eq!(found.len(), 2);
    assert_eq!(found[0].ids, long[..8]);
    assert_eq!(found[1].ids[..short.len()], short);
    assert_eq!(found[1].len, short.len());
    assert!(found[1].ids[short.len()..].iter().all(|&id| id == 7));
    assert!((short.len()..8).all(|p| !found[1].valid(p)));
    let counts = set.accounting();
    assert_eq!(counts.dropped_tokens, long.len() as u64 - 8);
    assert_eq!(counts.pads, 8 - short.len() as u64);
    assert_eq!((counts.documents, counts.empty_documents), (2, 1));
}

#[test]
fn special_tokens_in_the_text_are_recognised_and_can_be_excluded() {
    let bench = Bench::new(&["a<|endoftext|>, b, c"]);
    let comma = tokenizer().encode(",").unwrap()[0];
    let none = ModelTokens { bos: None, ..MODEL };
    let masked = |exclude| {
        let settings = TokenSettings {
            exclude_special_tokens: exclude,
            prepend_bos: false,
            ..bench.settings.clone()
        };
        let context = bench.build_as(&settings, &none).0.context(0);
        let masked = (0..context.len).filter(|&p| !context.valid(p));
        masked.map(|p| context.ids[p]).collect::<Vec<_>>()
    };
    assert!(masked(ExcludeTokens::All(false)).is_empty());
    assert_eq!(masked(ExcludeTokens::All(true)), [0]);
    let named = TokenName::Text(",".into());
    assert_eq!(masked(ExcludeTokens::Chosen(vec![named])), [comma, comma]);
    let both = ExcludeTokens::Chosen(vec![TokenName::Id(comma), TokenName::Id(0)]);
    assert_eq!(masked(both), [0, comma, comma]);
}

/// A piece of text with every kind of break.
fn novel(bytes: usize) -> String {
    let mut text = std::fs::read_to_string(quickstart("austen.txt")).unwrap();
    text.truncate(bytes);
    text
}

fn engine(json: serde_json::Value) -> (Tokenizer, tokenizers::Tokenizer) {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), json.to_string()).unwrap();
    let whole = tokenizers::Tokenizer::from_file(file.path()).unwrap();
    (Tokenizer::load(file.path(), 4096).unwrap(), whole)
}

/// The quickstart's tokenizer with parts replaced.
fn variant(parts: &[(&str, serde_json::Value)]) -> (Tokenizer, tokenizers::Tokenizer) {
    let text = std::fs::read_to_string(tokenizer_file()).unwrap();
    let mut json: serde_json::Value = serde_json::from_str(&text).unwrap();
    for (key, value) in parts {
        *json.pointer_mut(key).unwrap() = value.clone();
    }
    engine(json)
}

#[test]
fn cutting_a_long_document_does_not_change_its_tokens() {
    let llama3 = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
    let bytes = serde_json::json!({"type": "ByteLevel", "add_prefix_space": false,
        "trim_offsets": true, "use_regex": false});
    let split = serde_json::json!({"type": "Sequence", "pretokenizers": [
        {"type": "Split", "pattern": {"Regex": llama3}, "behavior": "Isolated", "invert": false},
        bytes]});
    let prefixed = serde_json::json!({"type": "ByteLevel", "add_prefix_space": true,
        "trim_offsets": true, "use_regex": true});
    let text = novel(6 * PIECE);
    for (tokenizer, whole) in [
        variant(&[]),
        variant(&[("/pre_tokenizer", split)]),
        variant(&[("/pre_tokenizer", prefixed)]),
        // Merges over words, as in Gemma's tokenizer.
        variant(&[("/pre_tokenizer", bytes)]),
    ] {
        let mut cuts = 0;
        let mut rest = text.as_str();
        while let Some(cut) = tokenizer.cut(rest).unwrap() {
            assert!(cut.exact && cut.end < PIECE + 2000);
            rest = &rest[cut.next..];
            cuts += 1;
        }
        assert_eq!(cuts, 5);
        let expected = whole.encode_fast(text.as_str(), false).unwrap();
        assert!(tokenizer.encode(&text).unwrap() == expected.get_ids());
    }
}

#[test]
fn a_tokenizer_that_puts_a_space_before_its_text_is_cut_in_place_of_one() {
    // Llama 2's: a space before the text, no words, characters as tokens.
    let text = novel(3 * PIECE);
    let mut chars: Vec<char> = text.chars().chain(['▁']).collect();
    chars.sort_unstable();
    chars.dedup();
    let vocab: serde_json::Map<String, serde_json::Value> = chars
        .iter()
        .enumerate()
        .map(|(i, c)| (c.to_string(), i.into()))
        .collect();
    let (tokenizer, mut whole) = engine(serde_json::json!({
        "version": "1.0", "added_tokens": [], "pre_tokenizer": null, "post_processor": null,
        "decoder": null, "padding": null, "truncation": {"direction": "Right", "max_length": 9,
            "strategy": "LongestFirst", "stride": 0},
        "normalizer": {"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": "▁"},
            {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}]},
        "model": {"type": "BPE", "vocab": vocab, "merges": []},
    }));
    let cut = tokenizer.cut(&text).unwrap().unwrap();
    assert!(cut.exact && cut.next == cut.end + 1);
    let ids = tokenizer.encode(&text).unwrap();
    assert_eq!(ids.len(), text.chars().count() + 1);
    // The file's truncation is switched off in one and still on in the other.
    assert_eq!(whole.encode_fast(text.as_str(), false).unwrap().len(), 9);
    whole.with_truncation(None).unwrap();
    let expected = whole.encode_fast(text.as_str(), false).unwrap();
    assert!(ids == expected.get_ids());
}

#[test]
fn text_without_any_break_is_cut_all_the_same() {
    let bench = Bench::new(&["x".repeat(3 << 20).as_str()]);
    let (set, _) = bench.build();
    assert_eq!(set.accounting().forced_cuts, 2);
}

/// behaviour: data-03
#[test]
fn a_large_text_gives_the_same_contexts_whichever_way_it_is_stored() {
    let text = novel(8 * PIECE + 1234);
    let bench = Bench::new(&[&text]);
    let (from_rows, _) = bench.build();
    let path = bench.dir.path().join("text.txt");
    std::fs::write(&path, &text).unwrap();
    let settings = |path| TokenSettings {
        path: Paths(vec![path]),
        ..bench.settings.clone()
    };
    let (from_text, _) = bench.build_as(&settings(path), &MODEL);
    let path = bench.dir.path().join("text.parquet");
    std::fs::write(&path, parquet_file(&[Some(&text)])).unwrap();
    let (from_parquet, _) = bench.build_as(&settings(path), &MODEL);
    assert!(from_rows.contexts() > 10_000);
    assert!(contexts(&from_rows) == contexts(&from_text));
    assert!(contexts(&from_rows) == contexts(&from_parquet));
    assert_ne!(from_rows.key(), from_text.key());
}

#[test]
fn an_identical_request_is_served_from_the_cache() {
    let bench = Bench::new(&TEXTS);
    let (first, _) = bench.build();
    assert!(!first.reused());
    let (second, rebuilt) = bench.build();
    assert!(second.reused() && rebuilt.is_empty());
    assert_eq!(contexts(&first), contexts(&second));
    let moved = bench.dir.path().join("moved.jsonl");
    std::fs::rename(bench.text(), &moved).unwrap();
    let settings = TokenSettings {
        path: Paths(vec![moved]),
        ..bench.settings.clone()
    };
    assert!(bench.build_as(&settings, &MODEL).0.reused());
}

#[test]
fn every_setting_and_the_content_have_a_key_of_their_own() {
    let bench = Bench::new(&TEXTS);
    let base = bench.settings.clone();
    let settings = [
        base.clone(),
        TokenSettings {
            context_size: 9,
            ..base.clone()
        },
        TokenSettings {
            packing: Packing::OnePerContext,
            ..base.clone()
        },
        TokenSettings {
            separator: Separator::None,
            ..base.clone()
        },
        TokenSettings {
            prepend_bos: false,
            ..base.clone()
        },
        TokenSettings {
            exclude_special_tokens: ExcludeTokens::All(true),
            ..base.clone()
        },
        TokenSettings {
            holdout: 0.5,
            ..base.clone()
        },
    ];
    let mut keys: Vec<String> = settings
        .iter()
        .map(|s| bench.build_as(s, &MODEL).0.key().to_owned())
        .collect();
    for model in [
        ModelTokens {
            vocab_size: 4096,
            ..MODEL
        },
        ModelTokens {
            bos: Some(1),
            ..MODEL
        },
        ModelTokens {
            eos: Some(1),
            ..MODEL
        },
        ModelTokens {
            pad: Some(1),
            ..MODEL
        },
    ] {
        keys.push(bench.build_as(&base, &model).0.key().to_owned());
    }
    let row = serde_json::json!({"text": "x", "body": "x"});
    std::fs::write(bench.text(), row.to_string()).unwrap();
    keys.push(bench.build().0.key().to_owned());
    let column = TokenSettings {
        text_column: "body".into(),
        ..base.clone()
    };
    keys.push(bench.build_as(&column, &MODEL).0.key().to_owned());
    let changed = bench.dir.path().join("tokenizer.json");
    let text = std::fs::read_to_string(tokenizer_file()).unwrap();
    std::fs::write(&changed, text + "\n").unwrap();
    let other = TokenSet::open_or_build(&base, &changed, &MODEL, &bench.cache(), &mut |_| Ok(()));
    keys.push(other.unwrap().key().to_owned());
    let count = keys.len();
    keys.sort_unstable();
    keys.dedup();
    assert_eq!(keys.len(), count);
}

/// behaviour: train-06
#[test]
fn several_texts_are_joined_in_their_order_and_a_missing_one_is_named() {
    let (whole, first, second) = (
        Bench::new(&TEXTS),
        Bench::new(&TEXTS[..1]),
        Bench::new(&TEXTS[1..]),
    );
    let joined = |paths: [&Path; 2]| TokenSettings {
        path: Paths(paths.map(Path::to_owned).into()),
        ..whole.settings.clone()
    };
    let (expected, _) = whole.build();
    let (set, _) = whole.build_as(&joined([first.text(), second.text()]), &MODEL);
    assert_eq!(contexts(&set), contexts(&expected));
    let (other, _) = whole.build_as(&joined([second.text(), first.text()]), &MODEL);
    assert_ne!(contexts(&other), contexts(&expected));

    std::fs::remove_file(second.text()).unwrap();
    let settings = joined([first.text(), second.text()]);
    let error = TokenSet::open_or_build(
        &settings,
        &tokenizer_file(),
        &MODEL,
        &whole.cache(),
        &mut |_| Ok(()),
    )
    .unwrap_err();
    assert_eq!(
        (error.code, &*error.about),
        (Code::DataMissing, &*second.text().display().to_string())
    );
}

#[test]
fn training_and_held_out_contexts_are_the_whole() {
    let bench = Bench::new(&[&novel(20_000)]);
    let settings = TokenSettings {
        holdout: 0.1,
        ..bench.settings.clone()
    };
    let (set, _) = bench.build_as(&settings, &MODEL);
    let training = (0..set.training_contexts()).map(|r| set.training_context(r));
    let tokens: usize = training.clone().map(|c| c.valid_count()).sum();
    assert_eq!(set.training_tokens(), tokens as u64);
    let held = (0..set.held_out_contexts()).map(|r| set.held_out_context(r));
    let mut indices: Vec<u64> = training.chain(held).map(|c| c.index).collect();
    indices.sort_unstable();
    assert!(indices.into_iter().eq(0..set.contexts()));
    assert_eq!(set.held_out_contexts(), set.contexts() / 10);
}
