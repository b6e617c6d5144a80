//! Where the daemon's control socket is.

use super::Failure;
use crate::config::{self, BUILTIN};
use crate::sys::cause::cause;
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
    /// The configuration can't be read, or has no usable `daemon.control`. Other problems
    /// in it are no error, because a running daemon must be reachable while its file is
    /// being edited.
    pub(super) fn path(&self) -> Result<PathBuf, Failure> {
        match self {
            Socket::Given(path) => Ok(path.clone()),
            Socket::Configured(file) => Ok(configured(file.as_deref())?),
        }
    }
}

fn configured(file: Option<&Path>) -> Result<PathBuf, String> {
    let Some(file) = config::find(file) else {
        return control(BUILTIN, Path::new("")).ok_or_else(|| "the built-in configuration is wrong".to_owned());
    };
    let text = config::text(&file)
        .map_err(|e| format!("cannot read {}: {}; or give --control PATH", file.display(), cause(&e)))?;
    let folder = file.parent().unwrap_or(Path::new(""));
    control(&String::from_utf8_lossy(&text), folder).ok_or_else(|| {
        format!(
            "cannot tell where the daemon is: daemon.control in {} is not a path; correct it, or give --control PATH",
            file.display()
        )
    })
}

/// `daemon.control` of a configuration that may have problems; the default if it is not
/// set; `None` if it is not a path, because a daemon at the default would not be the one
/// that was meant.
fn control(text: &str, folder: &Path) -> Option<PathBuf> {
    let stated = |text: &str| {
        let (table, _problems) = toml::de::DeTable::parse_recoverable(text);
        let daemon = table.into_inner().remove("daemon")?.into_inner();
        Some(daemon.get("control")?.as_ref().as_str().map(str::to_owned))
    };
    let path = stated(text).or_else(|| stated(BUILTIN))??;
    Some(folder.join(path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_configuration_names_the_socket() {
        assert_eq!(
            control("[daemon]\ncontrol = \"run/p.sock\"\n", Path::new("/etc/plumbd")),
            Some(Path::new("/etc/plumbd/run/p.sock").to_owned())
        );
        assert_eq!(
            control("[daemon]\ncontrol = \"/run/p.sock\"\n", Path::new("/etc/plumbd")),
            Some(Path::new("/run/p.sock").to_owned())
        );
    }

    #[test]
    fn a_wrong_control_does_not_mean_another_daemon() {
        for text in ["[daemon]\ncontrol = 7\n", "[daemon]\ncontrol = [\"a\"]\n", "daemon.control = true\n"] {
            assert_eq!(control(text, Path::new("/x")), None, "{text:?}");
        }
    }

    #[test]
    fn a_configuration_without_control_has_the_default() {
        for text in ["", "[daemon]\nlog = \"auto\"\n", "daemon = 1"] {
            assert_eq!(control(text, Path::new("/x")), Some("/x/plumbd.sock".into()), "{text:?}");
        }
    }

    #[test]
    fn a_half_edited_file_still_names_the_socket() {
        let text = "[daemon]\ncontrol = \"/run/p.sock\"\n[children.x]\ncommand = [\"a\"\nrestart = maybe\n";
        assert_eq!(control(text, Path::new("/x")), Some("/run/p.sock".into()));
    }
}
