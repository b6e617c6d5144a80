//! Memory that all instances of one child share: a memory file that the supervisor makes and
//! holds. Each instance has a region of it. Its contents are the plugin's own business, except
//! that the supervisor zeroes a region after the process of its instance is gone and before
//! the next one starts.
//!
//! The file is sparse and has room for the largest possible number of instances, because a
//! reload may add instances beside running ones that have already mapped it.

use std::os::fd::OwnedFd;

/// The most instances that a child can have (`instances`).
pub const MOST_INSTANCES: usize = 256;

/// Regions begin at multiples of this, so no two share a page on any machine that
/// Linux runs on, and zeroing one region touches no other instance's page.
const UNIT: usize = 64 * 1024;

/// Where the regions are in such a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Layout {
    region: usize,
}

impl Layout {
    /// The layout of a file whose regions have at least this many bytes.
    pub fn new(region: usize) -> Layout {
        Layout { region: region.next_multiple_of(UNIT) }
    }

    /// How long the file is. The part before the first region belongs to all instances, and
    /// is never zeroed.
    pub fn bytes(self) -> usize {
        self.region_of(MOST_INSTANCES)
    }

    /// Where the region of that instance begins.
    pub fn region_of(self, instance: usize) -> usize {
        UNIT + instance * self.region
    }

    /// How long each region is.
    pub fn region(self) -> usize {
        self.region
    }
}

/// The shared memory as an instance gets it.
#[derive(Debug)]
pub struct Shared {
    /// The file.
    pub file: OwnedFd,
    /// Which instance this is, from 0.
    pub instance: usize,
}
