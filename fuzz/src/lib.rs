//! What must hold of any bytes: the functions that the proof runs too.

#[path = "../../tests/proof/bytes/targets/mod.rs"]
pub mod targets;
