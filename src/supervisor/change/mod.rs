//! What takes several steps: start, reload, end.

pub(crate) mod drain;
pub(crate) mod reload;
pub(crate) mod steps;
