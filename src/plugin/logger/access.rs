//! The access rights of the message file and its archives. The rights that an
//! administrator gave to a file pass to the file that replaces it.

use super::follows;
use crate::sys::cause::cause;
use crate::sys::xattr;
use std::ffi::{CStr, CString};
use std::fs::{File, Permissions};
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt, fchown};

/// The access control list of a file (acl(5)).
const ACL: &CStr = c"system.posix_acl_access";
/// The prefix of attributes that mean nothing to the kernel.
const USER: &[u8] = b"user.";

/// The group's rights in a mode.
const OF_GROUP: u32 = 0o070;

/// Gives a file the owner, group, mode, access control list and user attributes
/// of another. Returns what it could not give, with the cause, for the log.
///
/// If the group can't be given, no other group gets its rights.
pub fn give_same(from: &File, to: &File) -> Vec<String> {
    let mut lacks = Vec::new();
    let mut give = |what: &str, outcome: io::Result<()>| match outcome {
        Ok(()) => true,
        Err(error) => {
            lacks.push(format!("the {what} of the file that it replaces: {}", cause(&error)));
            false
        }
    };
    let (like, made) = match (from.metadata(), to.metadata()) {
        (Ok(like), Ok(made)) => (like, made),
        (Err(error), _) | (_, Err(error)) => {
            give("access rights", Err(error));
            return lacks;
        }
    };
    if like.uid() != made.uid() {
        give("owner", fchown(to, Some(like.uid()), None));
    }
    let mut mode = like.mode() & 0o7777;
    let has_group = like.gid() == made.gid() || give("group", fchown(to, None, Some(like.gid())));
    if !has_group {
        mode &= !OF_GROUP;
    }
    let set_mode = || to.set_permissions(Permissions::from_mode(mode));
    give("mode", set_mode());
    match xattr::get(from, ACL) {
        Ok(Some(list)) if has_group => {
            give("access control list", xattr::set(to, ACL, &list));
        }
        // It has inherited a list from its folder.
        Ok(_) if xattr::get(to, ACL).is_ok_and(|list| list.is_some()) => {
            give("mode", xattr::remove(to, ACL).and_then(|()| set_mode()));
        }
        Ok(_) => {}
        Err(error) => {
            give("access control list", Err(error));
        }
    }
    give("attributes", same_attributes(from, to));
    lacks
}

fn same_attributes(from: &File, to: &File) -> io::Result<()> {
    // Which archive comes before a file holds for that file alone.
    let is_given = |name: &&CString| name.to_bytes().starts_with(USER) && name.as_c_str() != follows::ATTRIBUTE;
    for name in xattr::list(from)?.iter().filter(is_given) {
        if let Some(value) = xattr::get(from, name)? {
            xattr::set(to, name, &value)?;
        }
    }
    Ok(())
}

/// Gives a new file its group. If it can't, no other group gets the group's rights.
///
/// # Errors
/// From fchown(2).
pub fn give_group(file: &File, group: u32) -> io::Result<()> {
    let made = file.metadata()?;
    if made.gid() == group {
        return Ok(());
    }
    let given = fchown(file, None, Some(group));
    if given.is_err() {
        file.set_permissions(Permissions::from_mode(made.mode() & 0o7777 & !OF_GROUP))?;
    }
    given
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mode(file: &File) -> u32 {
        file.metadata().unwrap().mode() & 0o7777
    }

    #[test]
    fn a_new_file_gets_the_mode_and_the_attributes() {
        let folder = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).unwrap();
        let [from, to] = ["from", "to"].map(|name| File::create(folder.path().join(name)).unwrap());
        from.set_permissions(Permissions::from_mode(0o604)).unwrap();
        let has_attributes = xattr::set(&from, c"user.kept", b"yes").is_ok();
        if has_attributes {
            xattr::set(&from, follows::ATTRIBUTE, b"20261122T150405.123456Z").unwrap();
        }
        assert!(give_same(&from, &to).is_empty());
        assert_eq!(mode(&to), 0o604);
        if has_attributes {
            assert_eq!(xattr::get(&to, c"user.kept").unwrap().as_deref(), Some(&b"yes"[..]));
            assert_eq!(xattr::get(&to, follows::ATTRIBUTE).unwrap(), None, "that is the first one's alone");
        }
    }

    #[test]
    fn it_gets_the_access_control_list_or_none() {
        let folder = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).unwrap();
        let [from, to, plain] = ["from", "to", "plain"].map(|name| File::create(folder.path().join(name)).unwrap());
        // Version 2; owner rw, user 1 r, group r, mask r, others none.
        let entries: [(u16, u16, u32); 5] =
            [(1, 6, u32::MAX), (2, 4, 1), (4, 4, u32::MAX), (16, 4, u32::MAX), (32, 0, u32::MAX)];
        let mut list = 2u32.to_le_bytes().to_vec();
        for (tag, rights, id) in entries {
            list.extend([&tag.to_le_bytes()[..], &rights.to_le_bytes(), &id.to_le_bytes()].concat());
        }
        if xattr::set(&from, ACL, &list).is_err() {
            println!("left out: this file system has no access control lists");
            return;
        }
        assert!(give_same(&from, &to).is_empty());
        assert_eq!((xattr::get(&to, ACL).unwrap(), mode(&to)), (Some(list), 0o640));
        plain.set_permissions(Permissions::from_mode(0o600)).unwrap();
        assert!(give_same(&plain, &to).is_empty());
        assert_eq!((xattr::get(&to, ACL).unwrap(), mode(&to)), (None, 0o600));
    }
}
