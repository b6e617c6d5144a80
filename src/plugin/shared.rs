//! Memory that all instances of one child share: a memory file that the supervisor makes and
//! holds. Each instance has a region of it. What is in there is the plugin's own business,
//! but one thing: a region is zero again when the process of its instance is gone, before
//! the next one starts.
//!
//! The file is made for as many instances as there can be, and sparse: a reload may add
//! instances beside others that go on, and those have mapped it already.

use std::os::fd::OwnedFd;

/// How many instances a child has at most (`instances`).
pub const MOST_INSTANCES: usize = 256;

/// Regions begin at multiples of this, and so at a page of their own on any machine that
/// Linux runs on: nobody's page is touched when another's region is zeroed.
const UNIT: usize = 64 * 1024;

/// Where what is in such a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Layout {
    region: usize,
}

impl Layout {
    /// That of a file whose regions have at least that many bytes.
    pub fn new(region: usize) -> Layout {
        Layout { region: region.next_multiple_of(UNIT) }
    }

    /// How long the file is. What is before the first region belongs to all, and is never
    /// zeroed.
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

/// What an instance is given of it.
#[derive(Debug)]
pub struct Shared {
    /// The file.
    pub file: OwnedFd,
    /// Which instance this is, from 0.
    pub instance: usize,
}
