//! Models and datasets that runs refer to, by `model:NAME` and `dataset:NAME` or by a path.

use super::{Kind, record};
use crate::actors::datasets::OfDataset;
use crate::actors::models::OfModel;
use crate::config::RunConfig;
use crate::domain::asset::{AssetName, AssetState};
use crate::domain::run_state::RunState;
use crate::domain::{Code, Error, Result, RunId};
use crate::store::{Asset, RunQuery, View};
use std::path::{Path, PathBuf};
use toml::{Table, Value};

/// The text column of a run that does not say.
const DEFAULT_COLUMN: &str = "text";

/// Puts the paths in place of the names that `config` refers to, and checks what is known of
/// them against the run.
///
/// # Errors
/// `not-found` and `asset-not-ready`, by name; `hook-unknown`, `config-invalid` where a run
/// asks for what a model or dataset does not have.
pub fn resolve(view: &View<'_>, config: &mut RunConfig) -> Result<()> {
    if let Some(name) = OfModel::KIND.reference(&config.model.path)? {
        let model = ready::<OfModel>(view, &name)?;
        check_model(&name, &model, config)?;
        config.model.path = model.path.into();
    }
    let mut columns = Vec::new();
    for path in &mut config.data.path.0 {
        if let Some(name) = OfDataset::KIND.reference(path)? {
            let dataset = ready::<OfDataset>(view, &name)?;
            columns.push((name, text_column(&dataset)));
            *path = dataset.path.into();
        }
    }
    for (name, column) in columns {
        // What was validated is what is read.
        if config.data.text_column == DEFAULT_COLUMN {
            config.data.text_column.clone_from(&column);
        }
        if config.data.text_column != column {
            let message = format!(
                "is {}, and the text of dataset {name} stands in its column {column}",
                config.data.text_column
            );
            return Err(Error::new(Code::ConfigInvalid, "data.text_column", message)
                .hint("leave the key out, or name datasets with the same column"));
        }
    }
    Ok(())
}

/// The column of the text of a dataset.
pub(in crate::actors) fn text_column(dataset: &Asset) -> String {
    record::of::<OfDataset>(dataset).facts.text_column
}

/// The model or dataset `name`, which must be usable.
///
/// # Errors
/// `not-found`, `asset-not-ready`.
pub(in crate::actors) fn ready<K: Kind>(view: &View<'_>, name: &AssetName) -> Result<Asset> {
    let asset = view.asset(K::KIND, name.as_str()).map_err(|error| {
        let hint = format!(
            "`backpropd ctl {0}s` lists them, `… {0}s add` adds one",
            K::KIND
        );
        error.hint(hint)
    })?;
    match asset.state {
        AssetState::Ready => Ok(asset),
        _ => Err(record::not_ready::<K>(name, &asset)),
    }
}

fn check_model(name: &AssetName, model: &Asset, config: &RunConfig) -> Result<()> {
    let Some(known) = record::of::<OfModel>(model).facts.description else {
        return Ok(());
    };
    for hook in &config.model.hooks {
        for needed in [hook.clone(), config.target_of(hook)] {
            if !known.hook_points.contains(&needed) {
                let message = format!("model {name} has no such place");
                return Err(
                    Error::new(Code::HookUnknown, needed, message).hint(format_args!(
                        "`backpropd ctl models show {name}` lists them"
                    )),
                );
            }
        }
    }
    let context = config.data.context_size as u64;
    if known.context_is_limit && context > known.context {
        let message = format!(
            "{context} exceeds the {} positions of model {name}",
            known.context
        );
        return Err(Error::new(
            Code::ConfigInvalid,
            "data.context_size",
            message,
        ));
    }
    Ok(())
}

/// Runs that have not ended and read what lies at `path`.
///
/// # Errors
/// Those of the store.
pub(super) fn users<K: Kind>(view: &View<'_>, path: &Path) -> Result<Vec<RunId>> {
    let (table, is_list) = match K::KIND {
        crate::domain::asset::AssetKind::Model => ("model", false),
        crate::domain::asset::AssetKind::Dataset => ("data", true),
    };
    let mut users = Vec::new();
    for &state in RunState::ALL.iter().filter(|state| !state.has_ended()) {
        let of_state = RunQuery {
            state: Some(state),
            ..RunQuery::default()
        };
        for run in view.runs(&of_state, u32::MAX)? {
            let toml: Table = toml::from_str(&view.run_config(run.id)?.toml).unwrap_or_default();
            let value = toml.get(table).and_then(|table| table.get("path"));
            let paths: Vec<PathBuf> = match value {
                Some(Value::String(path)) => vec![path.into()],
                Some(Value::Array(paths)) if is_list => {
                    let paths = paths.iter().filter_map(Value::as_str);
                    paths.map(PathBuf::from).collect()
                }
                _ => Vec::new(),
            };
            if paths
                .iter()
                .any(|used| used.starts_with(path) || path.starts_with(used))
            {
                users.push(run.id);
            }
        }
    }
    Ok(users)
}
