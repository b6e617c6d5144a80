//! What outlives a child's process, and much of it the supervisor's own.
//!
//! | file | what is there |
//! |---|---|
//! | `links` | every pipe between children, with both its ends |
//! | `sockets`, `names`, `unix_name` | listening sockets, and the names of those that have one in a file system |
//! | `shared_memory` | what the instances of one child share |
//! | `access` | which users may open the pipes that children are given |
//! | `store` | what the service manager keeps for the next supervisor |

pub(crate) mod access;
pub(crate) mod links;
pub(crate) mod names;
pub(crate) mod shared_memory;
pub(crate) mod sockets;
pub(crate) mod store;
pub(crate) mod unix_name;
