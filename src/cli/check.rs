//! `plumbd check`.

use super::{Failure, output};
use crate::config::model::{Child, Program};
use crate::config::{self, Loaded, effective};
use crate::plugin;
use crate::schema::kind::Kind;
use crate::sys::beside::Folder;
use std::path::Path;

/// Checks the configuration; prints it with its defaults if that is asked for.
/// The failure has every problem that was found.
pub(super) fn check(file: Option<&Path>, effective: bool) -> Result<u8, Failure> {
    let loaded = config::load(file)?;
    for child in &loaded.model.children {
        shared_folders(&loaded, child).for_each(|text| output::tell(&text));
    }
    if effective {
        output::print(effective::effective(&loaded.model))?;
    } else {
        output::print(format!("{}: no problems\n", loaded.name))?;
    }
    Ok(0)
}

/// Warnings about files of a plugin in folders that others than root and the plugin's
/// user may write to.
fn shared_folders<'a>(loaded: &'a Loaded, child: &'a Child) -> impl Iterator<Item = String> + 'a {
    let plugin = match child.program {
        Program::Plugin(name) => plugin::find(name),
        Program::Command(_) => None,
    };
    let keys = plugin.map_or(&[][..], |plugin| plugin.keys).iter();
    keys.filter(|key| matches!(key.kind, Kind::File(_))).filter_map(|key| shared_folder(loaded, child, key.name))
}

fn shared_folder(loaded: &Loaded, child: &Child, key: &str) -> Option<String> {
    let file = Path::new(child.settings.get(key)?.as_str()?);
    let folder = Folder::of(file).ok()?;
    let is_safe = match &child.user {
        Some(user) => folder.is_only_of(user.uid, user.gid),
        // A service manager may run it as the user who owns the folder.
        None => !folder.is_shared() || folder.is_one_users(),
    };
    (!is_safe).then(|| {
        format!(
            "{}: warning: others may write to {}, where {} has its file: what they put there is not used, but can keep \
             it from saving",
            loaded.place(child.lines.of(&format!("settings.{key}")).unwrap_or(child.line)),
            file.parent().unwrap_or(file).display(),
            child.name
        )
    })
}
