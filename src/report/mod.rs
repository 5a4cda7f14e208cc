//! `report.html`: one self-contained page with a run's curves and its final measures.

mod charts;
mod curves;
mod html;

pub use curves::Curves;
pub use html::{Page, render};
pub(crate) use html::{duration, thousands};
