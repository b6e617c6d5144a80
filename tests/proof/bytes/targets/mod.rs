//! What must hold of any bytes, a function a reader of foreign bytes. The same
//! functions are fuzz targets (`fuzz/`) and run in the proof.
//!
//! Each says what it found wrong, and takes the function that it looks at as an
//! argument: so a control can give it a broken one.

pub mod config;
pub mod control;
pub mod ledger;
pub mod log;
pub mod message;
pub mod names;
pub mod notify;
mod pages;
pub mod record;
pub mod recovery;

/// What a target says of some bytes.
pub type Verdict = Result<(), String>;

/// Refuses what is not so.
macro_rules! hold {
    ($fact:expr, $($why:tt)+) => {
        if !$fact {
            return Err(format!($($why)+));
        }
    };
}
pub(crate) use hold;

/// Whether a text can steer a terminal, or break out of its line.
pub fn is_one_line(text: &str) -> bool {
    !text.chars().any(|c| c.is_control() && c != '\t')
}
