//! `ctl models`.

use super::Session;
use super::assets::{Assets, One, Removal, absolute, head, line, table};
use crate::domain::Result;
use crate::domain::asset::{AssetKind, AssetName, ModelDescription, ModelFacts};
use crate::protocol::asset::{AssetView, NewModel};
use crate::report::thousands;
use clap::{Args, Subcommand};
use indicatif::HumanBytes;
use std::path::PathBuf;

/// Language models that runs may refer to as `model:NAME`
#[derive(Args)]
pub struct ModelsArgs {
    #[command(subcommand)]
    verb: Option<Verb>,
}

#[derive(Subcommand)]
enum Verb {
    /// All models (the default)
    List,
    /// Know a model folder under a name, and read all of it
    Add {
        /// What it is to be called
        name: AssetName,
        /// A folder with config.json, weights and tokenizer.json
        path: PathBuf,
        /// Follow the reading of its weights
        #[arg(long)]
        watch: bool,
    },
    /// One model: its shape, hook points and memory needs
    Show(One),
    /// Read every weight again
    Check {
        /// Its name
        name: AssetName,
        /// Follow it
        #[arg(long)]
        watch: bool,
    },
    /// End the work on a model
    Cancel(One),
    /// Forget a model
    Rm(Removal),
}

type View = AssetView<ModelFacts>;

/// Runs the command.
pub fn models(session: &Session, args: ModelsArgs) -> Result<()> {
    let models = Assets {
        session,
        kind: AssetKind::Model,
    };
    match args.verb.unwrap_or(Verb::List) {
        Verb::List => {
            let all: Vec<View> = session.client.get(&models.path(""))?;
            session.print(&all, |all| list(all));
        }
        Verb::Add { name, path, watch } => {
            let path = absolute(&path)?;
            models.work::<ModelFacts>("", &NewModel { name, path }, watch)?;
        }
        Verb::Show(one) => {
            let view: View = models.get(&one.name)?;
            session.print(&view, show);
        }
        Verb::Check { name, watch } => {
            models.work::<ModelFacts>(&format!("/{name}/verify"), &(), watch)?;
        }
        Verb::Cancel(one) => {
            models.work::<ModelFacts>(&format!("/{}/cancel", one.name), &(), false)?;
        }
        Verb::Rm(removal) => models.remove(&removal)?,
    }
    Ok(())
}

fn list(all: &[View]) -> String {
    if all.is_empty() {
        return "no models; add one with: backpropd ctl models add NAME FOLDER\n".into();
    }
    let known = |view: &View, value: fn(&ModelDescription) -> String| {
        let known = view.record.facts.description.as_ref();
        known.map_or("–".into(), value)
    };
    let row = |view: &View| {
        vec![
            view.name.clone(),
            view.state.to_string(),
            known(view, |model| model.family.clone()),
            known(view, |model| thousands(model.parameters)),
            known(view, |model| model.layers.to_string()),
            known(view, |model| model.hidden_size.to_string()),
            view.path.display().to_string(),
        ]
    };
    let header = [
        "NAME",
        "STATE",
        "FAMILY",
        "PARAMETERS",
        "LAYERS",
        "HIDDEN",
        "PATH",
    ];
    table(&header, &[3, 4, 5], all.iter().map(row).collect())
}

fn show(view: &View) -> String {
    let mut text = head(AssetKind::Model, view);
    let facts = &view.record.facts;
    if let Some(model) = &facts.description {
        text += &describe(model);
    }
    if let Some(check) = &facts.check {
        let dtypes = check.dtypes.join(", ");
        text += &line("tensors", format!("{} in {dtypes}", check.tensors));
    }
    text
}

fn describe(model: &ModelDescription) -> String {
    let size = |bytes| HumanBytes(bytes).to_string();
    let architecture = model.architecture.as_deref().unwrap_or("–");
    let memory = &model.memory;
    let assumed = &memory.assumed;
    let mut text = line("family", format!("{} ({architecture})", model.family));
    text += &line("parameters", thousands(model.parameters));
    text += &line(
        "shape",
        format!(
            "{} layers, hidden size {}, {} heads, {} kv heads, intermediate size {}",
            model.layers, model.hidden_size, model.heads, model.kv_heads, model.intermediate_size
        ),
    );
    text += &line(
        "tokens",
        format!(
            "vocabulary {}, context {}",
            thousands(model.vocab_size),
            thousands(model.context)
        ),
    );
    text += &line(
        "memory",
        format!(
            "about {} to load, {} to capture, {} to train TopK with {} latents, k {}, batches of {}",
            size(memory.load),
            size(memory.capture),
            size(memory.training),
            thousands(assumed.d_sae),
            assumed.k,
            thousands(assumed.batch_size)
        ),
    );
    text += &line("disk", model.disk_bytes.map_or("–".into(), size));
    let first = model
        .hook_points
        .iter()
        .filter_map(|hook| hook.strip_prefix("blocks.0."));
    let first: Vec<&str> = first.collect();
    text += &line(
        "hooks",
        format!(
            "blocks.0 to {}: {}",
            model.layers.saturating_sub(1),
            first.join(", ")
        ),
    );
    text
}
