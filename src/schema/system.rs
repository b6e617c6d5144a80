//! What a check asks of the system on which the configuration will run.

use crate::sys::cause::cause;
use crate::sys::executable;
use serde::{Deserialize, Serialize};
use std::ffi::CString;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};

/// An account of the system.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Account {
    /// Its name.
    pub name: String,
    /// User id.
    pub uid: u32,
    /// The id of its own group.
    pub gid: u32,
    /// Its home.
    pub home: PathBuf,
    /// Its shell.
    pub shell: PathBuf,
}

/// Why a file can't be executed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NotRunnable {
    /// Such as `No such file or directory`.
    pub cause: String,
    /// What would mend it; empty if that is not known.
    pub help: String,
}

impl From<String> for NotRunnable {
    fn from(cause: String) -> NotRunnable {
        NotRunnable { cause, help: String::new() }
    }
}

/// The questions. An error is a cause in words, such as `No such file or directory`.
pub trait System {
    /// A variable of the supervisor's own environment.
    fn variable(&self, name: &str) -> Option<String>;
    /// Whether the check runs as root.
    fn is_root(&self) -> bool;
    /// The account of that name or number. The empty name stands for the account that runs
    /// the check.
    ///
    /// # Errors
    /// Why the accounts can't be read.
    fn account(&self, name: &str) -> Result<Option<Account>, String>;
    /// The id of the group of that name or number.
    ///
    /// # Errors
    /// Why the groups can't be read.
    fn group(&self, name: &str) -> Result<Option<u32>, String>;
    /// The ids of all groups of that user, or for the empty name, of this process.
    ///
    /// # Errors
    /// Why they can't be read.
    fn groups(&self, user: &str) -> Result<Vec<u32>, String>;
    /// Checks that this is a folder.
    ///
    /// # Errors
    /// Why not.
    fn folder(&self, path: &Path) -> Result<(), String>;
    /// Checks that this is a file that can be executed.
    ///
    /// # Errors
    /// Why not.
    fn program(&self, path: &Path) -> Result<(), NotRunnable>;
    /// Checks that this is a regular file, or does not exist yet.
    ///
    /// # Errors
    /// What it is instead.
    fn regular_file(&self, path: &Path) -> Result<(), String>;
    /// The path without symbolic links, so that two names of one file can be recognized.
    /// A path that does not exist stays as it is.
    fn resolve(&self, path: &Path) -> PathBuf;
}

/// The system that this process runs on.
#[derive(Debug, Clone, Copy)]
pub struct Real;

impl System for Real {
    fn variable(&self, name: &str) -> Option<String> {
        std::env::var(name).ok()
    }

    fn is_root(&self) -> bool {
        nix::unistd::geteuid().is_root()
    }

    fn account(&self, name: &str) -> Result<Option<Account>, String> {
        use nix::unistd::{Uid, User};
        let user = match name {
            "" => User::from_uid(nix::unistd::geteuid()),
            name => match (User::from_name(name), name.parse()) {
                (Ok(None), Ok(uid)) => User::from_uid(Uid::from_raw(uid)),
                (found, _) => found,
            },
        };
        let user = user.map_err(|error| error.desc().to_owned())?;
        Ok(user.map(|user| Account {
            name: user.name,
            uid: user.uid.as_raw(),
            gid: user.gid.as_raw(),
            home: user.dir,
            shell: user.shell,
        }))
    }

    fn group(&self, name: &str) -> Result<Option<u32>, String> {
        let group = nix::unistd::Group::from_name(name).map_err(|error| error.desc().to_owned())?;
        Ok(group.map(|group| group.gid.as_raw()))
    }

    fn groups(&self, user: &str) -> Result<Vec<u32>, String> {
        let groups = match self.account(user)? {
            Some(account) if !user.is_empty() => {
                let name = CString::new(account.name).map_err(|error| error.to_string())?;
                nix::unistd::getgrouplist(&name, nix::unistd::Gid::from_raw(account.gid))
            }
            _ => nix::unistd::getgroups().map(|mut groups| {
                groups.push(nix::unistd::getegid());
                groups
            }),
        };
        let groups = groups.map_err(|errno| errno.desc().to_owned())?;
        Ok(groups.into_iter().map(nix::unistd::Gid::as_raw).collect())
    }

    fn folder(&self, path: &Path) -> Result<(), String> {
        match std::fs::metadata(path) {
            Ok(found) if found.is_dir() => Ok(()),
            Ok(_) => Err("it is no folder".to_owned()),
            Err(error) => Err(cause(&error)),
        }
    }

    fn program(&self, path: &Path) -> Result<(), NotRunnable> {
        let kind = std::fs::metadata(path).map_err(|error| cause(&error))?.file_type();
        if kind.is_dir() {
            return Err("it is a folder".to_owned().into());
        }
        if kind.is_socket() || kind.is_fifo() || kind.is_block_device() || kind.is_char_device() {
            return Err("it is no ordinary file".to_owned().into());
        }
        let denied = nix::unistd::access(path, nix::unistd::AccessFlags::X_OK).err();
        let name = CString::new(path.as_os_str().as_bytes()).map_err(|error| error.to_string())?;
        let flaw = executable::look(&name).filter(|flaw| !(flaw.may_be_registered() && has_registered_formats()));
        match (flaw, denied) {
            (Some(flaw), _) => Err(NotRunnable { cause: flaw.to_string(), help: flaw.help(path) }),
            (None, Some(errno)) => Err(errno.desc().to_owned().into()),
            (None, None) => Ok(()),
        }
    }

    fn regular_file(&self, path: &Path) -> Result<(), String> {
        match std::fs::metadata(path) {
            Ok(found) if found.is_dir() => Err("it is a folder".to_owned()),
            Ok(found) if !found.is_file() => Err("it is no regular file".to_owned()),
            _ => Ok(()),
        }
    }

    fn resolve(&self, path: &Path) -> PathBuf {
        match (std::fs::canonicalize(path), path.parent(), path.file_name()) {
            (Ok(resolved), ..) => resolved,
            (Err(_), Some(folder), Some(name)) => {
                std::fs::canonicalize(folder).map_or_else(|_| path.to_owned(), |folder| folder.join(name))
            }
            (Err(_), ..) => path.to_owned(),
        }
    }
}

/// Whether the kernel has handlers for files of other formats (binfmt_misc in the kernel's
/// documentation). Only execve(2) finds out whether one of them takes a file.
fn has_registered_formats() -> bool {
    let entries = std::fs::read_dir("/proc/sys/fs/binfmt_misc").into_iter().flatten().flatten();
    entries.map(|entry| entry.file_name()).any(|name| name != "register" && name != "status")
}
