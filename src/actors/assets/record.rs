//! Records of models and datasets, and their transactions.

use super::Kind;
use crate::actors::store::{StoreRef, write};
use crate::domain::asset::{AssetName, AssetState, Moved, Step, Work};
use crate::domain::{Code, Error, Result};
use crate::protocol::asset::{AssetRecord, Outcome, WorkProgress};
use crate::store::{Asset, Tx};
use crate::system::clock::now_millis;
use serde_json::{Value, json};
use std::path::Path;
use std::time::Duration;

/// Between two attempts to write what could not be written.
const AGAIN: Duration = Duration::from_secs(1);

/// What is known of `asset`. What an earlier release wrote and this one cannot read is as if
/// it were not known.
pub fn of<K: Kind>(asset: &Asset) -> AssetRecord<K::Facts> {
    serde_json::from_value(asset.description.clone()).unwrap_or_default()
}

fn put<K: Kind>(tx: &Tx<'_>, asset: &mut Asset, record: &AssetRecord<K::Facts>) -> Result<()> {
    asset.description =
        serde_json::to_value(record).map_err(|e| Error::new(Code::Internal, "record", e))?;
    asset.updated_at = now_millis();
    tx.put_asset(K::KIND, asset)
}

/// Stores that something happened to `name`.
pub(super) fn tell<K: Kind>(
    tx: &Tx<'_>,
    name: &str,
    what: &str,
    message: &str,
    more: Value,
) -> Result<()> {
    let mut fields = json!({ "name": name, "message": message });
    if let (Some(fields), Value::Object(more)) = (fields.as_object_mut(), more) {
        fields.extend(more);
    }
    let kind = format!("{}_{what}", K::KIND);
    tx.append(None, &kind, &fields, now_millis()).map(|_| ())
}

/// Makes `name` known at `path`, where it is not known there already.
///
/// # Errors
/// `asset-exists` where it is known at another path.
pub fn register<K: Kind>(tx: &Tx<'_>, name: &AssetName, path: &Path) -> Result<()> {
    let path = path.to_string_lossy().into_owned();
    match tx.asset(K::KIND, name.as_str()) {
        Ok(asset) if asset.path == path => Ok(()),
        Ok(asset) => {
            let message = format!("this name is taken: it stands for {}", asset.path);
            Err(Error::new(Code::AssetExists, about::<K>(name), message)
                .hint("choose another name, or delete that one first"))
        }
        Err(error) if error.code == Code::NotFound => {
            let now = now_millis();
            let mut asset = Asset {
                name: name.as_str().to_owned(),
                state: AssetState::Registered,
                description: Value::Null,
                created_at: now,
                updated_at: now,
                path,
            };
            put::<K>(tx, &mut asset, &AssetRecord::default())?;
            let message = format!("registered: {}", asset.path);
            tell::<K>(tx, name.as_str(), "registered", &message, Value::Null)
        }
        Err(error) => Err(error),
    }
}

/// Work that somebody asked for.
pub struct Beginning {
    /// The model or dataset as it is now.
    pub asset: Asset,
    /// Whether it is to be started; it may be under way already.
    pub new: bool,
}

/// Moves `name` into `work`; `alter` changes what is known of it.
///
/// # Errors
/// `not-found`, `asset-in-use`, `asset-not-ready`.
pub fn begin<K: Kind>(
    tx: &Tx<'_>,
    name: &AssetName,
    work: Work,
    alter: impl FnOnce(&mut K::Facts),
) -> Result<Beginning> {
    let mut asset = tx.asset(K::KIND, name.as_str())?;
    match asset.state.on(Step::Begin(work)) {
        // Another request may be for other settings.
        Moved::Stays if work != Work::Tokenize => Ok(Beginning { asset, new: false }),
        Moved::Stays | Moved::Refused => Err(refusal::<K>(name, &asset)),
        Moved::To(state) => {
            asset.state = state;
            let mut record = of::<K>(&asset);
            (record.progress, record.error) = (None, None);
            alter(&mut record.facts);
            put::<K>(tx, &mut asset, &record)?;
            let said = state.as_str();
            tell::<K>(tx, name.as_str(), said, said, Value::Null)?;
            Ok(Beginning { asset, new: true })
        }
    }
}

fn refusal<K: Kind>(name: &AssetName, asset: &Asset) -> Error {
    let (state, about) = (asset.state, about::<K>(name));
    if state.is_at_work() || state == AssetState::Deleting {
        return Error::new(Code::AssetInUse, about, format_args!("is {state}"))
            .hint("wait until that has ended, or cancel it");
    }
    not_ready::<K>(name, asset)
}

/// Why `asset` cannot be used.
pub(super) fn not_ready<K: Kind>(name: &AssetName, asset: &Asset) -> Error {
    let state = asset.state;
    let why = match (state, of::<K>(asset).error) {
        (AssetState::Error, Some(problem)) => {
            format!("is not ready, its state is {state}: {}", problem.line())
        }
        _ => format!("is not ready, its state is {state}"),
    };
    Error::new(Code::AssetNotReady, about::<K>(name), why).hint(format_args!(
        "`backpropd ctl {}s show {name}` says more; `… check {name}` looks again",
        K::KIND
    ))
}

pub(super) fn about<K: Kind>(name: &AssetName) -> String {
    format!("{} {name}", K::KIND)
}

/// Stores how far work is. What comes too late changes nothing.
///
/// # Errors
/// `not-found`; those of the disk.
pub(super) fn progress<K: Kind>(
    tx: &Tx<'_>,
    name: &AssetName,
    progress: WorkProgress,
) -> Result<()> {
    let mut asset = tx.asset(K::KIND, name.as_str())?;
    if asset.state.on(Step::Progress) == Moved::Refused {
        return Ok(());
    }
    let mut record = of::<K>(&asset);
    record.progress = Some(progress);
    put::<K>(tx, &mut asset, &record)?;
    let message = progress.stage.as_str();
    tell::<K>(tx, name.as_str(), "progress", message, json!(progress))
}

/// Stores how work ended.
///
/// # Errors
/// `not-found`; those of the disk.
pub(super) fn settle<K: Kind>(
    tx: &Tx<'_>,
    name: &AssetName,
    result: Result<Outcome>,
) -> Result<()> {
    let mut asset = tx.asset(K::KIND, name.as_str())?;
    let mut record = of::<K>(&asset);
    let kept = result.and_then(|outcome| K::keep(&mut record.facts, outcome));
    let step = match &kept {
        Ok(()) => Step::Passed,
        Err(error) if is_given_up(asset.state, error) => Step::GivenUp,
        Err(_) => Step::Faulty,
    };
    let Moved::To(state) = asset.state.on(step) else {
        return Ok(());
    };
    asset.state = state;
    record.progress = None;
    record.error = kept.as_ref().err().map(Into::into);
    put::<K>(tx, &mut asset, &record)?;
    let message = match &kept {
        Ok(()) => state.to_string(),
        Err(error) => error.to_string(),
    };
    let (what, more) = match (step, &kept) {
        (Step::GivenUp, Err(error)) => ("given_up", json!({ "code": error.code.as_str() })),
        (_, Err(error)) => ("error", json!({ "code": error.code.as_str() })),
        (_, Ok(())) => ("ready", Value::Null),
    };
    tell::<K>(tx, name.as_str(), what, &message, more)
}

/// Whether `error` says nothing about what was looked at: somebody ended the work, or a
/// request to tokenise sound text could not be served.
fn is_given_up(state: AssetState, error: &Error) -> bool {
    let of_the_text = matches!(
        error.code,
        Code::DataMissing | Code::DataEmpty | Code::DataColumnMissing | Code::DataRowInvalid
    );
    error.code == Code::Cancelled || state == AssetState::Tokenizing && !of_the_text
}

/// Puts back what an earlier daemon, or an earlier instance of this actor, had under way: its
/// workers have lost their input and give up.
pub(super) async fn recover<K: Kind>(store: StoreRef) {
    let done = |tx: &Tx<'_>| {
        for mut asset in tx.assets(K::KIND)? {
            let Moved::To(state) = asset.state.on(Step::GivenUp) else {
                continue;
            };
            asset.state = state;
            let message = "the daemon ended meanwhile";
            let error = Error::new(Code::Cancelled, K::KIND, message).hint("begin it again");
            let mut record = of::<K>(&asset);
            (record.progress, record.error) = (None, Some((&error).into()));
            put::<K>(tx, &mut asset, &record)?;
            tell::<K>(tx, &asset.name, "given_up", message, Value::Null)?;
        }
        Ok(())
    };
    until_stored(K::KIND, || write(&store, done)).await;
}

/// Writes again and again until the disk takes it.
pub(super) async fn until_stored<T>(about: impl std::fmt::Display, mut attempt: impl FnMut() -> T)
where
    T: Future<Output = Result<()>>,
{
    loop {
        match attempt().await {
            Ok(()) => return,
            Err(error) if error.code == Code::NotFound => return,
            Err(error) => tracing::error!("{about}: cannot be stored yet: {error}"),
        }
        tokio::time::sleep(AGAIN).await;
    }
}
