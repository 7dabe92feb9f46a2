//! nf_tables: transactions that change tables, and what the tables in the kernel hold.

mod elements;
mod rule;
mod table;
mod tables;
mod transaction;
mod uapi;

pub use elements::Elements;
pub use rule::{Draw, Rule};
pub use table::Table;
pub use tables::Tables;
pub use transaction::{CommitError, Transaction};
