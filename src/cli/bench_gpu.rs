//! What the benchmarks on a GPU share: rounds that end with a wait, and where their time goes.

use crate::device::cuda::Cuda;
use crate::domain::Result;
use crate::system::files;
use std::time::Instant;

/// GPU number `ordinal`, with kernels out of the user's cache.
pub fn open(ordinal: u16) -> Result<Cuda> {
    let cache = files::cache_folder(&std::env::temp_dir().join("backpropd"))?;
    Cuda::open(ordinal.into(), Some(&cache.join("kernels")))
}

/// Seconds of a call of `work`, by the host's clock, over `calls` in a row and a wait for the
/// GPU behind them.
pub fn seconds(cuda: &Cuda, calls: usize, mut work: impl FnMut() -> Result<()>) -> Result<f64> {
    cuda.wait()?;
    let start = Instant::now();
    for _ in 0..calls {
        work()?;
    }
    cuda.wait()?;
    Ok(start.elapsed().as_secs_f64() / calls as f64)
}

/// Calls of a round, where one takes so long: as many as the clock and the wait do not show in.
pub fn calls(seconds: f64) -> usize {
    ((0.02 / seconds.max(1e-9)) as usize).clamp(1, 50)
}

/// The middle one, or the mean of the two in the middle.
pub fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    match values.len() % 2 {
        0 => (values[middle - 1] + values[middle]) / 2.0,
        _ => values[middle],
    }
}

/// Where the time of a call goes. Everything is for one call.
#[derive(Clone, Debug, serde::Serialize)]
pub struct Breakdown {
    /// By the host's clock, with the profile's own cost.
    pub seconds: f64,
    /// What the GPU did, by descending time.
    pub work: Vec<Share>,
    /// What is left: the GPU had nothing to do.
    pub idle_seconds: f64,
    /// Times that the host waited for numbers from the GPU, and seconds of it.
    pub waits: f64,
    pub waited_seconds: f64,
    /// Allocations of the GPU's memory, and their bytes.
    pub allocations: f64,
    pub allocated_bytes: f64,
}

/// A kernel, or a kind of copies.
#[derive(Clone, Debug, serde::Serialize)]
pub struct Share {
    pub name: &'static str,
    pub launches: f64,
    pub seconds: f64,
    /// Of [`Breakdown::seconds`].
    pub share: f64,
}

/// Profiles `calls` of `work`.
pub fn breakdown(
    cuda: &Cuda,
    calls: usize,
    mut work: impl FnMut() -> Result<()>,
) -> Result<Breakdown> {
    // Events are made by the first one.
    cuda.start_profile();
    work()?;
    cuda.take_profile()?;
    cuda.wait()?;
    cuda.start_profile();
    let seconds = seconds(cuda, calls, work)?;
    let profile = cuda.take_profile()?;
    let each = |all: f64| all / calls as f64;
    let share = |work: &crate::device::cuda::profile::Work| {
        let spent = each(work.milliseconds / 1e3);
        Share {
            name: work.name,
            launches: each(work.launches as f64),
            seconds: spent,
            share: spent / seconds,
        }
    };
    let work: Vec<Share> = profile.work.iter().map(share).collect();
    let busy: f64 = work.iter().map(|share| share.seconds).sum();
    Ok(Breakdown {
        seconds,
        idle_seconds: (seconds - busy).max(0.0),
        work,
        waits: each(profile.waits as f64),
        waited_seconds: each(profile.waited),
        allocations: each(profile.allocations as f64),
        allocated_bytes: each(profile.allocated as f64),
    })
}

/// A table without lines.
pub fn plain_table<const N: usize>(header: [&str; N]) -> comfy_table::Table {
    let mut table = comfy_table::Table::new();
    table.load_style(comfy_table::presets::NOTHING);
    table.set_header(header);
    table
}

/// Milliseconds, with as many digits as microseconds need.
pub fn ms(seconds: f64) -> String {
    format!("{:.3} ms", 1e3 * seconds)
}

impl Breakdown {
    /// As a table; `what` is one call.
    pub fn table(&self, what: &str) -> String {
        let mut table = plain_table(["on the GPU", "launches", "time", "share"]);
        let percent = |share: f64| format!("{:.1} %", 100.0 * share);
        for row in &self.work {
            table.add_row([
                row.name.to_owned(),
                format!("{:.1}", row.launches),
                ms(row.seconds),
                percent(row.share),
            ]);
        }
        table.add_row([
            "nothing".to_owned(),
            String::new(),
            ms(self.idle_seconds),
            percent(self.idle_seconds / self.seconds),
        ]);
        format!(
            "{table}\na profiled {what} takes {}; the host waits {:.1} times, {} in all; \
             {:.1} allocations of {:.1} MiB in all",
            ms(self.seconds),
            self.waits,
            ms(self.waited_seconds),
            self.allocations,
            self.allocated_bytes / f64::from(1 << 20),
        )
    }
}
