//! The actors of the daemon. They decide and delegate; what they drive knows nothing of
//! them.

pub mod assets;
pub mod datasets;
pub mod gpus;
pub mod handlers;
pub mod models;
pub mod reporter;
pub mod runs;
pub mod store;
pub mod sweep;
pub mod trainer;
pub mod worker;
