//! Checks that must hold for any bytes, one function for each reader of foreign bytes. The
//! same functions are fuzz targets (`fuzz/`) and run in the proof.
//!
//! Each reports what it found wrong. It takes the function that it tries as an
//! argument, so a control can give it a broken one.

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

/// A target's verdict about some bytes.
pub type Verdict = Result<(), String>;

/// Fails with a message if something does not hold.
macro_rules! hold {
    ($fact:expr, $($why:tt)+) => {
        if !$fact {
            return Err(format!($($why)+));
        }
    };
}
pub(crate) use hold;

/// Whether a text can neither control a terminal nor break out of its line.
pub fn is_one_line(text: &str) -> bool {
    !text.chars().any(|c| c.is_control() && c != '\t')
}
