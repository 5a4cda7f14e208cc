//! Datasets.

use super::assets::{Assets, Beginning, Kind, begin, not_an_answer, off_thread, refer, register};
use super::models::OfModel;
use super::store::write;
use crate::config::TokenRequest;
use crate::domain::asset::{AssetKind, AssetName, DatasetFacts, Work};
use crate::domain::{Code, Error, Result};
use crate::protocol::asset::{AssetTask, NewDataset, Outcome, Tokenize};
use crate::store::Asset;
use crate::supervise::Context;
use actix::prelude::*;
use std::path::{Path, PathBuf};

/// See [`Datasets`].
#[derive(Debug)]
pub enum OfDataset {}

/// The actor of the datasets.
pub type Datasets = Assets<OfDataset>;

impl Kind for OfDataset {
    const KIND: AssetKind = AssetKind::Dataset;
    type Facts = DatasetFacts;

    fn keep(facts: &mut DatasetFacts, outcome: Outcome) -> Result<()> {
        match outcome {
            Outcome::Validated(report) => {
                let fault = report.faults.first().map(|fault| {
                    let row = fault
                        .row
                        .map_or(String::new(), |row| format!(": row {row}"));
                    let about = format!("{}{row}", fault.file.display());
                    let more = match report.faulty {
                        1 => String::new(),
                        n => format!(" (and {} more)", n - 1),
                    };
                    let code = Code::ALL.iter().find(|code| code.as_str() == fault.code);
                    let code = code.copied().unwrap_or(Code::DataRowInvalid);
                    Error::new(code, about, format_args!("{}{more}", fault.reason))
                        .hint("the dataset's report lists them; correct them and check again")
                });
                facts.report = Some(*report);
                fault.map_or(Ok(()), Err)
            }
            Outcome::Tokenized(set) => {
                facts.token_sets.retain(|known| known.key != set.key);
                facts.token_sets.push(*set);
                Ok(())
            }
            other => not_an_answer(&other),
        }
    }

    fn made(facts: &DatasetFacts) -> Vec<PathBuf> {
        let sets = facts.token_sets.iter();
        sets.filter(|set| is_token_set(&set.file))
            .map(|set| set.file.clone())
            .collect()
    }
}

/// Whether a file is called as token sets are: nothing else of a cache is removed.
fn is_token_set(file: &Path) -> bool {
    let name = file.file_name().and_then(|name| name.to_str());
    name.is_some_and(|name| name.starts_with("tokens-") && name.ends_with(".bin"))
}

/// Know a dataset, and read all of it from then on.
#[derive(Message)]
#[rtype(result = "Result<Asset>")]
pub struct AddDataset(pub NewDataset);

impl Handler<AddDataset> for Datasets {
    type Result = ResponseActFuture<Self, Result<Asset>>;

    fn handle(&mut self, AddDataset(new): AddDataset, _: &mut Self::Context) -> Self::Result {
        let store = self.store.clone();
        let begun = async move {
            if !new.path.is_absolute() {
                let message = "is not absolute; the daemon works in another folder than you do";
                return Err(Error::new(Code::Usage, new.path.display(), message));
            }
            let path = new.path.clone();
            off_thread(move || {
                let found = std::fs::metadata(&path);
                found.map(|_| ()).map_err(|e| {
                    let message = format!("cannot be found: {e}");
                    Error::new(Code::DataMissing, path.display(), message)
                        .hint("give a .txt, .jsonl, .csv or .parquet file, or a folder of them")
                })
            })
            .await?;
            write(&store, move |tx| {
                register::<OfDataset>(tx, &new.name, &new.path)?;
                begin::<OfDataset>(tx, &new.name, Work::Validate, |facts| {
                    if facts.text_column != new.text_column {
                        facts.token_sets.clear();
                    }
                    facts.text_column = new.text_column;
                })
            })
            .await
        };
        Box::pin(
            begun
                .into_actor(self)
                .map(|begun, this, ctx| this.validate(begun?, ctx)),
        )
    }
}

/// Read all of a dataset again.
#[derive(Message)]
#[rtype(result = "Result<Asset>")]
pub struct ValidateDataset(pub AssetName);

impl Handler<ValidateDataset> for Datasets {
    type Result = ResponseActFuture<Self, Result<Asset>>;

    fn handle(&mut self, message: ValidateDataset, _: &mut Self::Context) -> Self::Result {
        let (store, ValidateDataset(name)) = (self.store.clone(), message);
        let begun = async move {
            write(&store, move |tx| {
                begin::<OfDataset>(tx, &name, Work::Validate, |_| {})
            })
            .await
        };
        Box::pin(
            begun
                .into_actor(self)
                .map(|begun, this, ctx| this.validate(begun?, ctx)),
        )
    }
}

/// Tokenise a dataset for a model.
#[derive(Message)]
#[rtype(result = "Result<Asset>")]
pub struct TokenizeDataset {
    /// The dataset.
    pub name: AssetName,
    /// For what, and how.
    pub request: Tokenize,
}

impl Handler<TokenizeDataset> for Datasets {
    type Result = ResponseActFuture<Self, Result<Asset>>;

    fn handle(&mut self, message: TokenizeDataset, _: &mut Self::Context) -> Self::Result {
        let store = self.store.clone();
        let cache = self.cache();
        let TokenizeDataset { name, request } = message;
        let begun = async move {
            write(&store, move |tx| {
                let model = refer::ready::<OfModel>(tx, &request.model)?;
                let begun = begin::<OfDataset>(tx, &name, Work::Tokenize, |_| {})?;
                let settings = TokenRequest {
                    path: begun.asset.path.clone().into(),
                    text_column: refer::text_column(&begun.asset),
                    set: &request.set,
                };
                let task = AssetTask::Tokenize {
                    name: request.model.clone(),
                    model: model.path.into(),
                    settings: settings.resolve()?,
                    cache,
                };
                Ok((begun.asset, task))
            })
            .await
        };
        Box::pin(begun.into_actor(self).map(|begun, this, ctx| {
            let (asset, task): (Asset, AssetTask) = begun?;
            this.start(asset.name.parse()?, task, ctx);
            Ok(asset)
        }))
    }
}

impl Datasets {
    fn validate(&mut self, begun: Beginning, ctx: &mut Context<Self>) -> Result<Asset> {
        if begun.new {
            let task = AssetTask::Validate {
                data: PathBuf::from(&begun.asset.path),
                text_column: refer::text_column(&begun.asset),
            };
            self.start(begun.asset.name.parse()?, task, ctx);
        }
        Ok(begun.asset)
    }
}
