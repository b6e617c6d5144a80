//! Checks that must hold for any bytes. tests/proof runs the same functions.

#[path = "../../tests/proof/bytes/targets/mod.rs"]
pub mod targets;
