//! Which runs compute on a GPU at a time.
//!
//! Two runs on one GPU halve each other's pace and run out of memory together. So a run claims
//! its GPU, by uuid, against all others of this host: those of a daemon and those in the
//! foreground, however CUDA_VISIBLE_DEVICES counts the GPUs for each.

use super::context::Context;
use crate::device::cuda::probe::Found;
use crate::domain::{Code, Error, Result};
use crate::system::claim::{Claim, Claimed};
use std::time::Duration;

/// With whom a run shares its GPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sharing {
    /// With whatever computes there.
    Anybody,
    /// With no other run: it fails where one is there.
    Nobody,
    /// With so many runs, itself included: it waits for its place.
    Among(usize),
}

/// Between two looks whether a place is free.
const AGAIN: Duration = Duration::from_millis(200);

/// Claims `gpu` for this run; nothing where there is nothing to claim it by.
///
/// # Errors
/// `device-unavailable` where another run has it, and `sharing` does not wait.
pub(super) fn claim(gpu: &Found, sharing: Sharing, context: &Context<'_>) -> Result<Option<Claim>> {
    let most = match sharing {
        Sharing::Anybody => return Ok(None),
        Sharing::Nobody => 1,
        Sharing::Among(most) => most.max(1),
    };
    let Some(uuid) = &gpu.uuid else {
        return Ok(None);
    };
    let mut told = false;
    loop {
        let holder = match Claim::take(uuid, most) {
            Ok(Claimed::Mine(claim)) => return Ok(Some(claim)),
            Ok(Claimed::Taken(holder)) => holder,
            Err(error) => {
                context.warn(format!(
                    "{}: whether another run computes on it cannot be told: {error}",
                    gpu.name
                ));
                return Ok(None);
            }
        };
        let holder = holder.map_or("another process".to_owned(), |pid| format!("process {pid}"));
        let message = format!("{holder} of backpropd trains on it");
        if sharing == Sharing::Nobody {
            return Err(
                Error::new(Code::DeviceUnavailable, &gpu.name, message).hint(
                    "wait for it, take another GPU with --device cuda:N, or train beside it with \
                 --share-gpu",
                ),
            );
        }
        if !std::mem::replace(&mut told, true) {
            context.warn(format!("{}: {message}: waiting", gpu.name));
        }
        context.beat();
        std::thread::sleep(AGAIN);
    }
}
