//! The exports of a finished run.

use super::context::Context;
use super::site::Site;
use super::train::Run;
use crate::checkpoint::export::{ExportedSae, Metadata, Outcome, Place, write_all};
use crate::config::RunConfig;
use crate::device::lm::LmOps;
use crate::device::sae::SaeOps;
use crate::domain::{Code, Result};
use crate::protocol::SiteValidation;
use crate::sae::spec::{Pool, Variant};
use std::collections::BTreeMap;

/// Writes every autoencoder of `run` in every format that can hold it. Returns, by format
/// and hook point, where it is or why it is not.
///
/// # Errors
/// `io-write`, `disk-full`.
pub fn write<D: SaeOps<Real = f32> + LmOps>(
    run: &Run<'_, D>,
    context: &Context<'_>,
) -> Result<BTreeMap<String, String>> {
    let dir = run.folder.path.join("export");
    let mut said = BTreeMap::new();
    for (index, site) in run.sites.iter().enumerate() {
        let measured = run.validation.as_ref().map(|v| &v.sites[index]);
        let metadata = metadata(&run.job.config, site, measured);
        let folded = site.trainer.fold(run.device)?;
        let mut sae = match ExportedSae::from_folded(folded, &run.job.config.sae, metadata) {
            // A diverged autoencoder is of no use to anyone; its curves are.
            Err(error) if error.code == Code::NonFinite => {
                context.warn(format!(
                    "{}: not exported: {}: {}",
                    site.name, error.about, error.message
                ));
                continue;
            }
            other => other?,
        };
        sae.frequency = run.frequencies.get(index).cloned();
        let place = Place {
            dir: &dir,
            name: (run.sites.len() > 1).then_some(site.name.as_str()),
            index,
        };
        for outcome in write_all(&sae, place)? {
            let (format, text) = match outcome {
                Outcome::Written(format, path) => (format, path.display().to_string()),
                Outcome::Skipped(format, reason) => {
                    context.warn(format!(
                        "{}: not exported for {format}: {reason}",
                        site.name
                    ));
                    (format, format!("left out: {reason}"))
                }
            };
            said.insert(format!("{format}/{}", site.name), text);
        }
    }
    Ok(said)
}

fn metadata<D: SaeOps>(
    config: &RunConfig,
    site: &Site<D>,
    measured: Option<&SiteValidation>,
) -> Metadata {
    let model = &config.model.path;
    let training = match &config.sae.variant {
        Variant::Standard { .. } => "standard",
        Variant::JumpRelu(_) => "jumprelu",
        Variant::Gated { .. } => "gated",
        Variant::TopK(topk) if !topk.widths.is_empty() => "matryoshka_batchtopk",
        Variant::TopK(topk) => match topk.pool {
            Pool::Token => "topk",
            Pool::Batch => "batchtopk",
        },
    };
    Metadata {
        model_name: model
            .file_name()
            .unwrap_or(model.as_os_str())
            .to_string_lossy()
            .into_owned(),
        hook_name: site.name.clone(),
        hook_name_out: config.sae.target.as_ref().map(|_| site.target.to_string()),
        context_size: config.data.context_size,
        prepend_bos: config.data.prepend_bos,
        dataset_path: config.data.path.to_string(),
        training_architecture: training.to_owned(),
        l0: measured.map(|m| m.l0),
        num_dead_features: Some(site.trainer.dead().len()),
        ..Metadata::default()
    }
}
