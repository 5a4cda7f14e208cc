//! BatchTopK: the largest keys of a whole batch.

use super::filter::Panel;
use super::memory::{Parts, Scratch};
use super::out_of_memory;
use super::pool::Pool;
use super::select::{List, ListEdge, key_of, kth_largest};
use crate::domain::Result;

/// Keeps the `total` largest keys of all panels, of equal ones those of the lower token,
/// then of the lower latent. Returns the bound that later keys must be above: the next
/// number below the least that was kept, since an equal key of a lower token still wins.
/// `None` where there are not more than `total` edges.
pub fn prune(
    pool: &Pool,
    panels: &mut [Panel],
    total: usize,
    scale: Option<&[f32]>,
) -> Result<Option<f32>> {
    let mut starts = Vec::with_capacity(panels.len() + 1);
    let mut edges = 0;
    for panel in &*panels {
        starts.push(edges);
        edges += match panel {
            Panel::List(list) if list.lost => {
                return Err(out_of_memory(edges * size_of::<ListEdge>()));
            }
            Panel::List(list) => list.edges.len(),
            Panel::Top(_) => 0,
        };
    }
    if edges <= total {
        return Ok(None);
    }
    let panels = Parts::new(panels);
    if total == 0 {
        pool.run(starts.len(), |task| {
            // SAFETY: each panel belongs to one task.
            unsafe { panels.part(task, 1)[0] = Panel::List(List::default()) };
        });
        return Ok(Some(f32::INFINITY));
    }
    let mut orders = Scratch::try_take(edges)?;
    let orders: &mut [i32] = bytemuck::cast_slice_mut(&mut orders);
    {
        let orders = Parts::new(orders);
        pool.run(starts.len(), |task| {
            // SAFETY: each panel and its keys belong to one task.
            if let Panel::List(list) = unsafe { &panels.part(task, 1)[0] } {
                // SAFETY: as above.
                let orders = unsafe { orders.part(starts[task], list.edges.len()) };
                for ((at, edge), _) in list.by_row().zip(&*list.edges) {
                    orders[at] = edge.entry.order(scale);
                }
            }
        });
    }
    let (least, ties) = kth_largest(pool.isa(), orders, total);
    // The first ties win: how many come before each panel.
    let mut before = Vec::with_capacity(starts.len());
    let mut seen = 0;
    for (task, &start) in starts.iter().enumerate() {
        before.push(seen);
        let end = starts.get(task + 1).copied().unwrap_or(edges);
        seen += orders[start..end].iter().filter(|&&o| o == least).count();
    }
    pool.run(starts.len(), |task| {
        // SAFETY: each panel belongs to one task.
        if let Panel::List(list) = unsafe { &mut panels.part(task, 1)[0] } {
            let mut sorted = list.edges.clone();
            for (at, edge) in list.by_row() {
                sorted[at] = *edge;
            }
            let mut ties = ties.saturating_sub(before[task]);
            sorted.retain(|edge| {
                let order = edge.entry.order(scale);
                let tie = order == least && ties > 0;
                ties -= usize::from(tie);
                order > least || tie
            });
            list.edges = sorted;
        }
    });
    Ok(Some(key_of(least).next_down()))
}
