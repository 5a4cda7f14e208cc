//! `backpropd capture`: the activations of a text, as a safetensors file.

use crate::data::{TokenName, Tokenizer};
use crate::device::Device;
use crate::device::cpu::Cpu;
use crate::domain::{Code, Error, Precision, Result};
use crate::lm::{HookPoint, Lm, Tokens};
use crate::tensorfile::{Dtype, TensorOut, write};
use std::collections::BTreeMap;
use std::path::PathBuf;

/// Writes a language model's activations on a text, or on token ids, to a safetensors file.
///
/// The file holds the `ids` as I64 and, under the name of each hook point, its values, tokens
/// × d_model, as F32.
#[derive(clap::Args)]
pub struct CaptureArgs {
    /// Model folder in Hugging Face layout.
    #[arg(long, value_name = "DIR")]
    model: PathBuf,
    #[command(flatten)]
    source: Source,
    /// Token that is put before the text, by its id or its name; none unless given.
    #[arg(long, value_name = "TOKEN", conflicts_with = "ids")]
    bos: Option<String>,
    /// Hook points, such as blocks.5.hook_resid_post.
    #[arg(long, value_name = "NAME", required = true, num_args = 1..)]
    hook: Vec<String>,
    /// How the weights are held: f32, bf16, f16, int8 or int4.
    #[arg(long, default_value_t)]
    precision: Precision,
    /// File to write.
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    /// Threads; 0 means one for each core.
    #[arg(long, default_value_t = 0)]
    threads: usize,
}

#[derive(clap::Args)]
#[group(required = true, multiple = false)]
struct Source {
    /// The text itself.
    #[arg(long)]
    text: Option<String>,
    /// A UTF-8 text file; all of it is one context.
    #[arg(long)]
    file: Option<PathBuf>,
    /// Token ids, separated by commas.
    #[arg(long, value_delimiter = ',')]
    ids: Option<Vec<u32>>,
}

/// Runs the capture and says in one line what was written.
///
/// # Errors
/// What loading the model and the tokenizer gives; `hook-unknown`, `data-missing`,
/// `data-empty`, `usage`, `io-write`, `disk-full`.
pub fn capture(args: CaptureArgs) -> Result<()> {
    let spec = crate::lm::config::load(&args.model)?;
    let hooks = hooks(&args.hook, &spec)?;
    let ids = ids(&args, spec.vocab)?;
    if ids.len() > spec.max_positions {
        return Err(Error::new(
            Code::Usage,
            source_name(&args.source),
            format_args!(
                "{} tokens exceed the model's {} positions",
                ids.len(),
                spec.max_positions
            ),
        )
        .hint("give a shorter text"));
    }
    let tokens = Tokens::new(&ids, 1, ids.len())?;
    let device = Cpu::new(args.threads);
    let mut lm = Lm::load_as(&device, &args.model, args.precision)?;
    let shape = [ids.len(), spec.d_model];
    let mut values = hooks
        .iter()
        .map(|_| device.zeros(shape[0] * shape[1]))
        .collect::<Result<Vec<_>>>()?;
    lm.capture(&device, &tokens, &hooks, &mut values)?;

    let wide: Vec<i64> = ids.iter().map(|&id| i64::from(id)).collect();
    let wide = bytemuck::cast_slice(&wide);
    let mut tensors = vec![TensorOut::new("ids", Dtype::I64, &shape[..1], wide)];
    for (hook, values) in hooks.iter().zip(&values) {
        tensors.push(TensorOut::f32(hook.to_string(), &shape, values));
    }
    let metadata = BTreeMap::from([
        ("model".to_owned(), args.model.display().to_string()),
        ("precision".to_owned(), args.precision.to_string()),
        (
            "producer".to_owned(),
            format!("backpropd {}", env!("CARGO_PKG_VERSION")),
        ),
    ]);
    write(&args.out, &metadata, &tensors)?;
    println!(
        "wrote {}: {} at {} tokens × {}",
        args.out.display(),
        args.hook.join(", "),
        shape[0],
        shape[1]
    );
    Ok(())
}

fn hooks(names: &[String], spec: &crate::lm::LmSpec) -> Result<Vec<HookPoint>> {
    let mut hooks = Vec::new();
    for name in names {
        let hook = spec.hook(name)?;
        if hooks.contains(&hook) {
            return Err(Error::new(
                Code::Usage,
                "--hook",
                format_args!("{name} is given twice"),
            ));
        }
        hooks.push(hook);
    }
    Ok(hooks)
}

fn source_name(source: &Source) -> String {
    match (&source.file, &source.text) {
        (Some(path), _) => path.display().to_string(),
        (None, Some(_)) => "--text".into(),
        (None, None) => "--ids".into(),
    }
}

fn ids(args: &CaptureArgs, vocab: usize) -> Result<Vec<u32>> {
    let name = source_name(&args.source);
    if let Some(ids) = &args.source.ids {
        return Ok(ids.clone());
    }
    let text = match (&args.source.text, &args.source.file) {
        (Some(text), _) => text.clone(),
        (None, Some(path)) => std::fs::read_to_string(path).map_err(|e| match e.kind() {
            std::io::ErrorKind::NotFound => {
                Error::new(Code::DataMissing, &name, "there is no such file")
            }
            _ => Error::read(path, &e),
        })?,
        (None, None) => String::new(),
    };
    let tokenizer = Tokenizer::load(&args.model.join("tokenizer.json"), vocab)?;
    let mut ids = Vec::new();
    if let Some(bos) = &args.bos {
        let token = match bos.parse() {
            Ok(id) => TokenName::Id(id),
            Err(_) => TokenName::Text(bos.clone()),
        };
        ids.push(tokenizer.id_of("--bos", &token)?);
    }
    let first = ids.len();
    ids.extend(tokenizer.encode(&text)?);
    if ids.len() == first {
        return Err(Error::new(Code::DataEmpty, name, "the text has no tokens"));
    }
    Ok(ids)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tensorfile::{Codes, TensorFile};
    use clap::Parser;
    use std::path::Path;

    #[derive(Parser)]
    struct Cli {
        #[command(flatten)]
        args: CaptureArgs,
    }

    const MODEL: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/lm/gpt2");

    fn run(out: &Path, rest: &[&str]) -> Result<()> {
        let out = out.to_str().unwrap();
        let fixed = ["capture", "--model", MODEL, "--out", out];
        let cli = Cli::try_parse_from(fixed.iter().chain(rest)).unwrap_or_else(|e| panic!("{e}"));
        capture(cli.args)
    }

    #[test]
    fn a_text_its_file_and_its_ids_give_the_same_activations() {
        let dir = tempfile::tempdir().unwrap();
        let text = "In the beginning God created the heaven and the earth.";
        let file = dir.path().join("a.txt");
        std::fs::write(&file, text).unwrap();
        let out = |name: &str| dir.path().join(name);
        let hooks = [
            "--hook",
            "blocks.1.hook_resid_post",
            "blocks.0.hook_mlp_out",
        ];
        let run = |name: &str, source: [&str; 2]| {
            run(&out(name), &[&source[..], &hooks].concat()).unwrap();
            let file = TensorFile::open(out(name), Codes::MODEL).unwrap();
            let ids = file.tensor("ids").unwrap().u32().unwrap();
            let read = |name| file.tensor(name).unwrap().f32().unwrap().into_owned();
            (ids, read(hooks[1]), read(hooks[2]))
        };
        let from_text = run("1", ["--text", text]);
        let ids: Vec<String> = from_text.0.iter().map(u32::to_string).collect();
        assert_eq!(from_text, run("2", ["--file", file.to_str().unwrap()]));
        assert_eq!(from_text, run("3", ["--ids", &ids.join(",")]));

        // The stored prompt is this text: ids and activations are known.
        let known = Path::new(MODEL).join("ref.safetensors");
        let known = TensorFile::open(known, Codes::MODEL).unwrap();
        assert_eq!(known.tensor("0.ids").unwrap().u32().unwrap(), from_text.0);
        let expected = known.tensor("0.blocks.1.hook_resid_post").unwrap();
        let expected = expected.f32().unwrap();
        let pairs = expected.iter().zip(&from_text.1);
        let worst = pairs.map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        assert!(worst < 1e-3, "{worst}");
    }

    #[test]
    fn what_cannot_be_captured_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let out = dir.path().join("out");
        let hook = ["--hook", "blocks.0.hook_resid_pre"];
        let fails = |rest: &[&str], code: Code, part: &str| {
            let error = run(&out, rest).unwrap_err();
            assert_eq!(error.code, code, "{error}");
            assert!(error.to_string().contains(part), "{error} lacks {part}");
            assert!(!out.exists());
        };
        let with = |rest: &[&'static str]| [rest, &hook].concat();
        fails(&with(&["--text", ""]), Code::DataEmpty, "--text");
        fails(
            &with(&["--file", "/no/such"]),
            Code::DataMissing,
            "/no/such",
        );
        fails(&with(&["--ids", "1,512"]), Code::Usage, "512");
        fails(
            &with(&["--text", "a", "--bos", "<none>"]),
            Code::ConfigInvalid,
            "--bos",
        );
        let long = "word ".repeat(100);
        fails(
            &["--text", &long, hook[0], hook[1]],
            Code::Usage,
            "64 positions",
        );
        fails(
            &["--ids", "1", "--hook", "blocks.9.hook_resid_pre"],
            Code::HookUnknown,
            "blocks.9",
        );
        fails(
            &["--ids", "1", hook[0], hook[1], hook[1]],
            Code::Usage,
            "twice",
        );
    }
}
