//! Where the daemon's control socket is.

use super::Failure;
use crate::config::{self, BUILTIN, system};
use std::path::{Path, PathBuf};

/// How the control socket is found.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Socket {
    /// By `--control` or $PLUMBD_CONTROL.
    Given(PathBuf),
    /// As the configuration says: this file, or the one that is found.
    Configured(Option<PathBuf>),
}

impl Socket {
    /// The socket's path.
    ///
    /// # Errors
    /// The configuration can't be read. That it has problems is no error where
    /// it still says what the control socket is: a running daemon must be
    /// within reach while its file is being edited.
    pub(super) fn path(&self) -> Result<PathBuf, Failure> {
        match self {
            Socket::Given(path) => Ok(path.clone()),
            Socket::Configured(file) => Ok(configured(file.as_deref())?),
        }
    }
}

fn configured(file: Option<&Path>) -> Result<PathBuf, String> {
    let Some(file) = config::find(file) else {
        return Ok(control(BUILTIN, Path::new("")));
    };
    let text = std::fs::read(&file)
        .map_err(|e| format!("cannot read {}: {}; or give --control PATH", file.display(), system::cause(&e)))?;
    let folder = file.parent().unwrap_or(Path::new(""));
    Ok(control(&String::from_utf8_lossy(&text), folder))
}

/// `daemon.control` of a configuration that may have problems; where it has
/// none, the default.
fn control(text: &str, folder: &Path) -> PathBuf {
    let stated = |text: &str| {
        let (table, _problems) = toml::de::DeTable::parse_recoverable(text);
        let daemon = table.into_inner().remove("daemon")?.into_inner();
        Some(daemon.get("control")?.as_ref().as_str()?.to_owned())
    };
    folder.join(stated(text).or_else(|| stated(BUILTIN)).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_configuration_says_where() {
        assert_eq!(
            control("[daemon]\ncontrol = \"run/p.sock\"\n", Path::new("/etc/plumbd")),
            Path::new("/etc/plumbd/run/p.sock")
        );
        assert_eq!(
            control("[daemon]\ncontrol = \"/run/p.sock\"\n", Path::new("/etc/plumbd")),
            Path::new("/run/p.sock")
        );
    }

    #[test]
    fn a_configuration_that_does_not_say_has_the_default() {
        for text in ["", "[daemon]\nlog = \"auto\"\n", "daemon = 1", "[daemon]\ncontrol = 7\n"] {
            assert_eq!(control(text, Path::new("/x")), Path::new("/x/plumbd.sock"), "{text:?}");
        }
    }

    #[test]
    fn a_file_that_is_half_edited_still_says_where() {
        let text = "[daemon]\ncontrol = \"/run/p.sock\"\n[children.x]\ncommand = [\"a\"\nrestart = maybe\n";
        assert_eq!(control(text, Path::new("/x")), Path::new("/run/p.sock"));
    }
}
