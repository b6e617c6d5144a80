//! share/ has what the package and `make install` take from it: manual pages,
//! completions and the JSON schemas, as the commands print them.
//! `UPDATE_EXPECT=1 cargo test --test it share` rewrites it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The commands that print completions and the schemas, and the places below share/ where
/// each shell, and the first line of etc/plumbd.toml, look for them.
const PRINTED: [(&[&str], &str); 5] = [
    (&["completions", "bash"], "bash-completion/completions/plumbd"),
    (&["completions", "fish"], "fish/vendor_completions.d/plumbd.fish"),
    (&["completions", "zsh"], "zsh/vendor-completions/_plumbd"),
    (&["schema"], "plumbd/plumbd.schema.json"),
    (&["schema", "status"], "plumbd/plumbd-status.schema.json"),
];

fn plumbd(arguments: &[&str]) -> Vec<u8> {
    let printed = Command::new(env!("CARGO_BIN_EXE_plumbd")).args(arguments).output().unwrap();
    assert!(printed.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&printed.stderr));
    printed.stdout
}

/// Every file below a folder.
fn files(folder: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(next) = folders.pop() {
        for entry in std::fs::read_dir(next).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else {
                found.insert(path.strip_prefix(folder).unwrap().to_owned(), std::fs::read(path).unwrap());
            }
        }
    }
    found
}

fn write(folder: &Path) {
    for (arguments, name) in PRINTED {
        let path = folder.join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, plumbd(arguments)).unwrap();
    }
    plumbd(&["man", "--out", folder.join("man").to_str().unwrap()]);
}

#[test]
fn what_ships_is_what_is_printed() {
    let share = Path::new(env!("CARGO_MANIFEST_DIR")).join("share");
    if std::env::var_os("UPDATE_EXPECT").is_some() {
        let _was_not_there = std::fs::remove_dir_all(&share);
        write(&share);
    }
    let dir = tempfile::tempdir().unwrap();
    write(dir.path());
    let (ships, printed) = (files(&share), files(dir.path()));
    assert_eq!(ships.keys().collect::<Vec<_>>(), printed.keys().collect::<Vec<_>>());
    for (name, text) in printed {
        let (ships, text) = (String::from_utf8_lossy(&ships[&name]), String::from_utf8_lossy(&text));
        assert_eq!(ships, text, "share/{}: UPDATE_EXPECT=1 cargo test --test it share", name.display());
    }
}
