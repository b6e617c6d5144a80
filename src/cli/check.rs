//! `plumbd check`.

use super::{Failure, output};
use crate::config::model::{Child, Program};
use crate::config::{self, Loaded, effective};
use crate::sys::beside::Folder;
use std::path::Path;

/// Checks the configuration; prints it with its defaults where that is asked.
/// Every problem there is comes back as the failure.
pub(super) fn check(file: Option<&Path>, effective: bool) -> Result<u8, Failure> {
    let loaded = config::load(file)?;
    loaded.model.children.iter().filter_map(|child| shared_folder(&loaded, child)).for_each(|text| output::tell(&text));
    if effective {
        output::print(effective::effective(&loaded.model))?;
    } else {
        output::print(format!("{}: no problems\n", loaded.name))?;
    }
    Ok(0)
}

/// A warning of a message file whose folder others may write to than root and the
/// logger's user.
fn shared_folder(loaded: &Loaded, child: &Child) -> Option<String> {
    let file = match child.program {
        Program::Plugin("logger") => Path::new(child.settings.get("file")?.as_str()?),
        _ => return None,
    };
    let folder = Folder::of(file).ok()?;
    let is_safe = match &child.user {
        Some(user) => folder.is_only_of(user.uid, user.gid),
        // A service manager may run it as the user who has the folder.
        None => !folder.is_shared() || folder.is_one_users(),
    };
    (!is_safe).then(|| {
        format!(
            "{}: warning: others may write to {}, where {} has its file: what they put there is not used, but can keep \
             it from saving",
            loaded.place(child.lines.of("settings.file").unwrap_or(child.line)),
            file.parent().unwrap_or(file).display(),
            child.name
        )
    })
}
