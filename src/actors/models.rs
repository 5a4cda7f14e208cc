//! Language models.

use super::assets::{Assets, Beginning, Kind, ask, begin, not_an_answer, register};
use super::store::{read, write};
use super::worker::Limits;
use crate::domain::asset::{AssetKind, AssetName, ModelDescription, ModelFacts, Work};
use crate::domain::{Code, Error, Result};
use crate::protocol::asset::{AssetTask, NewModel, Outcome};
use crate::store::Asset;
use crate::supervise::Context;
use actix::prelude::*;
use std::path::PathBuf;
use std::time::Duration;

/// Reading a config takes milliseconds; whoever asks waits for it.
const DESCRIBE: Limits = Limits {
    hang: Duration::from_secs(8),
    stop: Duration::from_secs(1),
};

/// See [`Models`].
#[derive(Debug)]
pub enum OfModel {}

/// The actor of the models.
pub type Models = Assets<OfModel>;

impl Kind for OfModel {
    const KIND: AssetKind = AssetKind::Model;
    type Facts = ModelFacts;

    fn keep(facts: &mut ModelFacts, outcome: Outcome) -> Result<()> {
        match outcome {
            Outcome::Verified(check) => facts.check = Some(*check),
            other => return not_an_answer(&other),
        }
        Ok(())
    }
}

/// Know a model. Answered when its config was read; its weights are read from then on.
#[derive(Message)]
#[rtype(result = "Result<Asset>")]
pub struct AddModel(pub NewModel);

impl Handler<AddModel> for Models {
    type Result = ResponseActFuture<Self, Result<Asset>>;

    fn handle(&mut self, AddModel(new): AddModel, _: &mut Self::Context) -> Self::Result {
        if !new.path.is_absolute() {
            let message = "is not absolute; the daemon works in another folder than you do";
            let error = Error::new(Code::Usage, new.path.display(), message);
            return Box::pin(std::future::ready(Err(error)).into_actor(self));
        }
        Box::pin(
            self.described(new.name.clone(), new.path)
                .then(move |described, this, _| {
                    let store = this.store.clone();
                    let begun = async move {
                        let (description, path) = described?;
                        write(&store, move |tx| {
                            register::<OfModel>(tx, &new.name, &path)?;
                            begin::<OfModel>(tx, &new.name, Work::Verify, |facts| {
                                facts.description = Some(description);
                            })
                        })
                        .await
                    };
                    begun.into_actor(this)
                })
                .map(|begun, this, ctx| this.verify(begun?, ctx)),
        )
    }
}

/// Read the weights of a model, now or again.
#[derive(Message)]
#[rtype(result = "Result<Asset>")]
pub struct VerifyModel(pub AssetName);

impl Handler<VerifyModel> for Models {
    type Result = ResponseActFuture<Self, Result<Asset>>;

    fn handle(&mut self, VerifyModel(name): VerifyModel, _: &mut Self::Context) -> Self::Result {
        let (store, which) = (self.store.clone(), name.clone());
        let found = async move {
            read(&store, move |view| {
                view.asset(AssetKind::Model, which.as_str())
            })
            .await
        };
        let again = found.into_actor(self).then(move |found, this, ctx| {
            let added: ResponseActFuture<Self, Result<Asset>> = match found {
                // A config that cannot be read leaves the record as it is.
                Ok(asset) => this.handle(
                    AddModel(NewModel {
                        name,
                        path: asset.path.into(),
                    }),
                    ctx,
                ),
                Err(error) => Box::pin(std::future::ready(Err(error)).into_actor(this)),
            };
            added
        });
        Box::pin(again)
    }
}

impl Models {
    fn described(
        &self,
        name: AssetName,
        path: PathBuf,
    ) -> ResponseActFuture<Self, Result<(ModelDescription, PathBuf)>> {
        let model = path.clone();
        let (worker, commands) = self.worker(&name, AssetTask::Describe { model }, DESCRIBE);
        let described = async move {
            // Kept until the worker has ended: it is not told anything.
            let _commands = commands;
            match ask(worker).await? {
                Outcome::Described(description) => Ok((*description, path)),
                other => not_an_answer(&other),
            }
        };
        Box::pin(described.into_actor(self))
    }

    fn verify(&mut self, begun: Beginning, ctx: &mut Context<Self>) -> Result<Asset> {
        if begun.new {
            let model = PathBuf::from(&begun.asset.path);
            let name = begun.asset.name.parse()?;
            self.start(name, AssetTask::Verify { model }, ctx);
        }
        Ok(begun.asset)
    }
}
