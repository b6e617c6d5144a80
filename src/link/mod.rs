//! Links: what flows from a source to a sink, and how it survives both.
//!
//! - [`handover`]: which descriptors of a link a child is given, and how it is told;
//! - [`record`]: the record protocol between a source and a sink that acknowledges.

pub mod handover;
pub mod record;
