//! Faults that the looks must find.

/// All of them.
pub(super) fn all() -> String {
    String::new()
}
