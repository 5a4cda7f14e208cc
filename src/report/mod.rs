//! What people see of a run: the screen while it works, and `report.html`, a self-contained
//! page with its curves and final measures.

mod charts;
mod curves;
mod html;
pub mod screen;
pub mod sweep;

pub use curves::Curves;
pub use html::{Page, render};
pub(crate) use html::{duration, thousands};
pub(crate) use sweep::keys_of;
