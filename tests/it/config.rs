//! Configuration files: bad ones with every problem that is reported, and good ones
//! with their meaning.
//!
//! `UPDATE_EXPECT=1 cargo test --test it config` rewrites the expected output;
//! read it before you keep it.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use plumbd::config::model::{Model, Program};
use plumbd::config::{self, Problems, effective::effective, examples::EXAMPLES, keys, plan::plan};
use plumbd::plugin::PLUGINS;
use plumbd::schema::kind::{Keys, Kind};
use plumbd::schema::system::{Account, NotRunnable, System};
use proptest::prelude::*;
use std::path::{Path, PathBuf};
use std::rc::Rc;

/// A pretended system, which is the same wherever the tests run.
struct Pretend {
    root: bool,
}

const BASE: &str = "/srv/plumbd";
const FOLDERS: [&str; 6] = [BASE, "/", "/tmp", "/run/plumbd", "/var/log/plumbd", "/srv/plumbd/run"];
const PROGRAMS: [&str; 4] = ["/bin/sh", "/usr/bin/tee", "/usr/bin/logger", "/srv/plumbd/filter"];
const NO_PROGRAMS: [&str; 2] = ["/etc/passwd", "/usr/bin/secret"];

impl System for Pretend {
    fn variable(&self, name: &str) -> Option<String> {
        (name == "PATH").then(|| "/bin:/usr/bin".to_owned())
    }
    fn is_root(&self) -> bool {
        self.root
    }
    fn account(&self, name: &str) -> Result<Option<Account>, String> {
        Ok(matches!(name, "" | "nobody" | "65534").then(|| Account {
            name: "nobody".to_owned(),
            uid: 65534,
            gid: 65534,
            home: PathBuf::from("/nonexistent"),
            shell: PathBuf::from("/usr/sbin/nologin"),
        }))
    }
    fn group(&self, name: &str) -> Result<Option<u32>, String> {
        Ok((name == "adm").then_some(4))
    }
    fn groups(&self, user: &str) -> Result<Vec<u32>, String> {
        Ok(self.account(user)?.map(|account| account.gid).into_iter().chain([100]).collect())
    }
    fn folder(&self, path: &Path) -> Result<(), String> {
        match FOLDERS.iter().any(|folder| Path::new(folder) == path) {
            true => Ok(()),
            false => Err("No such file or directory".to_owned()),
        }
    }
    fn program(&self, path: &Path) -> Result<(), NotRunnable> {
        match path {
            path if PROGRAMS.iter().any(|program| Path::new(program) == path) => Ok(()),
            path if NO_PROGRAMS.iter().any(|program| Path::new(program) == path) => {
                Err("Permission denied".to_owned().into())
            }
            _ => Err("No such file or directory".to_owned().into()),
        }
    }
    fn regular_file(&self, path: &Path) -> Result<(), String> {
        match path {
            path if FOLDERS.iter().any(|folder| Path::new(folder) == path) => Err("it is a folder".to_owned()),
            path if path.starts_with("/dev") => Err("it is no regular file".to_owned()),
            _ => Ok(()),
        }
    }
    fn resolve(&self, path: &Path) -> PathBuf {
        path.to_owned()
    }
}

fn check(text: &[u8], name: &str, root: bool) -> Result<Model, Problems> {
    config::check_text_on(text, name, Path::new(BASE), &Pretend { root })
}

/// Whether a text is a configuration without problems, for root on the pretended system.
pub fn is_right(text: &str) -> bool {
    check(text.as_bytes(), "text", true).is_ok()
}

/// Every table of keys, with its name.
pub fn tables() -> Vec<(String, Keys)> {
    let mut tables = vec![("the file".to_owned(), keys::FILE), ("[daemon]".to_owned(), keys::DAEMON)];
    let mut add = |name: &str, keys: Keys| {
        tables.push((name.to_owned(), keys));
        for key in keys {
            if let Kind::Table(inner) | Kind::WordsOr(_, &Kind::Table(inner)) = key.kind {
                tables.push((key.name.to_owned(), inner));
            }
        }
    };
    add("[children.NAME]", keys::CHILD);
    add("[[links]]", keys::LINK);
    PLUGINS.iter().for_each(|plugin| add(&format!("settings of {}", plugin.name), plugin.keys));
    tables
}

/// Folders under tests/config.
pub const GOOD: &str = "good";
pub const BAD: &str = "bad";

/// The `.toml` files of a folder under tests/config, by name.
pub fn files(folder: &str) -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/config").join(folder);
    let entries = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let mut files: Vec<PathBuf> = entries.filter(|path| path.extension().is_some_and(|e| e == "toml")).collect();
    files.sort();
    files
}

/// Compares with the file beside it that has this extension, or writes it.
fn expect(path: &Path, extension: &str, actual: &str) -> Result<(), String> {
    let beside = path.with_extension(extension);
    if std::env::var_os("UPDATE_EXPECT").is_some() {
        std::fs::write(&beside, actual).unwrap();
    }
    let expected = std::fs::read_to_string(&beside).unwrap_or_default();
    match expected == actual {
        true => Ok(()),
        false => Err(format!("{}\n--- expected\n{expected}\n--- actual\n{actual}\n", beside.display())),
    }
}

/// The model without anything that depends on lines of a file.
fn placeless(mut model: Model) -> Model {
    model.file = None;
    model.children.iter_mut().for_each(|child| Rc::make_mut(child).line = 0);
    model.links.iter_mut().for_each(|link| link.line = 0);
    model
}

#[test]
fn each_bad_file_is_reported_with_every_problem() {
    let files = files("bad");
    assert!(files.len() >= 40, "only {} bad files", files.len());
    let mut wrong = Vec::new();
    for path in &files {
        let name = path.file_name().unwrap().to_string_lossy();
        let said = match check(&std::fs::read(path).unwrap(), &name, false) {
            Ok(_) => "no problem\n".to_owned(),
            Err(problems) => format!("{problems}\n"),
        };
        assert_ne!(said, "no problem\n", "{name}");
        wrong.extend(expect(path, "out", &said).err());
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn each_good_file_means_what_its_effective_text_says() {
    let mut wrong = Vec::new();
    for path in &files("good") {
        let name = path.file_name().unwrap().to_string_lossy();
        let model = check(&std::fs::read(path).unwrap(), &name, true).unwrap_or_else(|problems| panic!("{problems}"));
        let text = effective(&model);
        wrong.extend(expect(path, "out", &text).err());
        let again = check(text.as_bytes(), "effective", true).unwrap_or_else(|problems| panic!("{problems}\n{text}"));
        assert_eq!(placeless(model.clone()), placeless(again), "{name}");
        assert!(plan(&model, &model).is_empty(), "{name}");
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn each_example_is_right_and_has_its_own_file() {
    for example in &EXAMPLES {
        let model = check(example.text.as_bytes(), example.name, true).unwrap_or_else(|problems| panic!("{problems}"));
        assert!(!model.links.is_empty(), "{}", example.name);
    }
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("etc");
    let mut names: Vec<String> = std::fs::read_dir(folder)
        .unwrap()
        .filter_map(|entry| entry.unwrap().file_name().to_str().unwrap().strip_suffix(".toml").map(str::to_owned))
        .collect();
    names.sort();
    let mut known: Vec<&str> = EXAMPLES.iter().map(|example| example.name).collect();
    known.sort();
    assert_eq!(names, known);
}

/// `#key = value` is a default that is commented out, `# text` is text.
fn uncommented(line: &str) -> &str {
    line.strip_prefix('#').filter(|rest| rest.starts_with(|c: char| c.is_ascii_lowercase())).unwrap_or(line)
}

/// etc/plumbd.toml shows every key, with its default and its line of documentation.
/// Removing the `#` before a default changes nothing.
#[test]
fn the_commented_configuration_has_every_key() {
    let text = config::examples::find("plumbd").unwrap().text;
    let lines: Vec<&str> = text.lines().collect();
    let tables = [keys::DAEMON, keys::CHILD, keys::LINK].into_iter().chain(PLUGINS.iter().map(|plugin| plugin.keys));
    for key in tables.flatten() {
        let is = |line: &&&str| {
            let line = line.trim_start_matches('#').trim_start();
            line.strip_prefix(key.name).is_some_and(|rest| rest.trim_start().starts_with('='))
        };
        let all: Vec<&&str> = lines.iter().filter(is).collect();
        assert!(all.iter().any(|line| line.contains(key.doc)), "{}: {}\n{all:?}", key.name, key.doc);
    }
    let uncommented: String = lines.iter().map(|line| format!("{}\n", uncommented(line))).collect();
    let model = check(text.as_bytes(), "plumbd.toml", true).unwrap();
    let full = check(uncommented.as_bytes(), "plumbd.toml", true).unwrap_or_else(|problems| panic!("{problems}"));
    assert_eq!(placeless(model), placeless(full));
}

#[test]
fn every_default_is_right() {
    for key in tables().iter().flat_map(|(_, keys)| *keys).filter(|key| !key.default.is_empty()) {
        let text = format!("{} = {}", key.name, key.default);
        assert!(text.parse::<toml::Table>().is_ok(), "{text}");
    }
    check(config::BUILTIN.as_bytes(), "built-in", false).unwrap();
}

#[test]
fn a_file_that_cannot_be_read_is_a_problem_without_a_place() {
    let folder = tempfile::tempdir().unwrap();
    let missing = config::load(Some(&folder.path().join("none.toml"))).unwrap_err();
    assert_eq!(missing.count(), 1);
    let said = missing.to_string();
    assert!(said.contains("none.toml: cannot read the file: No such file or directory"), "{said}");
    let said = config::load(Some(folder.path())).unwrap_err().to_string();
    assert!(said.contains("cannot read the file: Is a directory"), "{said}");
    let large = folder.path().join("large.toml");
    std::fs::write(&large, vec![b'\n'; (256 << 10) + 1]).unwrap();
    let said = config::load(Some(&large)).unwrap_err().to_string();
    assert!(said.contains("larger than 256 KiB"), "{said}");
}

/// The supervisor does nothing else while it checks a file, so the file's size is bounded.
#[test]
fn too_many_children_links_or_instances_are_reported_once() {
    let child = |i: usize, more: &str| format!("[children.c{i}]\ncommand = ['sh']\n{more}");
    let said = |text: String| check(text.as_bytes(), "x", false).unwrap_err().to_string();
    let children = said((0..1100).map(|i| child(i, "")).collect());
    assert!(children.starts_with("x:2001:11: 1100 children are too many; at most 1000\n"), "{children}");
    let links = child(0, "") + &"[[links]]\nfrom = 'c0'\nto = 'nobody'\n".repeat(1100);
    assert!(said(links).contains(": 1100 links are too many; at most 1000\n"));
    let instances = said((0..20).map(|i| child(i, "instances = 256\n")).collect());
    assert!(instances.contains("with these there are 4352 instances"), "{instances}");
    assert_eq!(instances.lines().count(), 3, "{instances}");
}

#[test]
fn relative_paths_are_relative_to_the_file() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("plumbd.toml");
    std::fs::write(&file, config::BUILTIN).unwrap();
    let loaded = config::load(Some(&file)).unwrap();
    assert!(!loaded.builtin);
    assert_eq!(loaded.model.daemon.control, folder.path().join("plumbd.sock"));
    assert_eq!(loaded.model.file.as_deref(), Some(file.as_path()));
    let logger = loaded.model.child("logger").unwrap();
    assert_eq!(logger.program, Program::Plugin("logger"));
    assert_eq!(logger.settings["file"], folder.path().join("messages.log").to_str().unwrap());
}

/// Texts that are nearly right: valid files cut, spliced and overwritten.
fn mangled() -> impl Strategy<Value = Vec<u8>> {
    let texts: Vec<Vec<u8>> =
        files("good").into_iter().chain(files("bad")).map(|path| std::fs::read(path).unwrap()).collect();
    let edit =
        (any::<prop::sample::Index>(), any::<prop::sample::Index>(), proptest::collection::vec(any::<u8>(), 0..4));
    let piece = prop::sample::select(vec![
        "[",
        "]",
        "=",
        "\"",
        "\"\"\"",
        "{",
        "}",
        ",",
        "\n",
        "\r",
        "\0",
        "é",
        "[[links]]\n",
        "#",
        "'",
        ".",
    ]);
    let typed = (any::<prop::sample::Index>(), piece);
    (prop::sample::select(texts), proptest::collection::vec(edit, 0..3), proptest::collection::vec(typed, 0..4))
        .prop_map(|(mut text, edits, typed)| {
            for (from, to, with) in edits {
                let (a, b) = (from.index(text.len() + 1), to.index(text.len() + 1));
                // Most cuts are short, so that most of the file stays.
                let range = a.min(b)..a.max(b).min(a.min(b) + 20);
                text.splice(range, with);
            }
            for (at, piece) in typed {
                let at = at.index(text.len() + 1);
                text.splice(at..at, piece.bytes());
            }
            text
        })
}

/// Checks that any bytes give a model, or problems that can be shown.
fn never_panics(bytes: &[u8]) {
    match check(bytes, "x.toml", false) {
        Ok(model) => assert!(plan(&model, &model).is_empty()),
        Err(problems) => {
            assert!(problems.count() > 0);
            let said = problems.to_string();
            assert!(said.lines().count() >= problems.count());
        }
    }
}

proptest! {
    #[test]
    fn any_bytes_are_checked_without_a_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        never_panics(&bytes);
    }

    #[test]
    fn any_mangled_file_is_checked_without_a_panic(bytes in mangled()) {
        never_panics(&bytes);
    }

    #[test]
    fn any_cut_of_a_file_is_checked_without_a_panic(at in any::<prop::sample::Index>(), which in any::<prop::sample::Index>()) {
        let files = files("good");
        let text = std::fs::read(&files[which.index(files.len())]).unwrap();
        never_panics(&text[..at.index(text.len() + 1)]);
    }

    #[test]
    fn a_reload_to_the_running_configuration_does_nothing(which in any::<prop::sample::Index>(), other in any::<prop::sample::Index>()) {
        let models: Vec<Model> = files("good").iter().map(|path| check(&std::fs::read(path).unwrap(), "x", true).unwrap()).collect();
        let (a, b) = (&models[which.index(models.len())], &models[other.index(models.len())]);
        prop_assert!(plan(a, a).is_empty());
        // Every child of either configuration is in the plan once.
        let planned = plan(a, b);
        for child in a.children.iter().chain(&b.children) {
            prop_assert_eq!(planned.children.iter().filter(|c| c.name == child.name).count(), 1);
        }
    }
}

#[test]
#[ignore = "needs root for another user, run by .ci/run"]
fn a_folder_that_may_not_be_looked_into_is_no_reason_to_take_the_next_configuration() {
    use std::os::unix::fs::PermissionsExt;
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("plumbd.toml"), "[children.one]\ncommand = [\"sleep\", \"1\"]\n").unwrap();
    std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o700)).unwrap();
    // In a place that another user can reach.
    let folder = tempfile::tempdir().unwrap();
    std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
    let program = folder.path().join("plumbd");
    // Another process copies it. If this one did, a process that another test forks at that
    // moment would have it open for writing, and such a file can't be executed (ETXTBSY).
    let copied = std::process::Command::new("cp").arg(env!("CARGO_BIN_EXE_plumbd")).arg(&program).status().unwrap();
    assert!(copied.success());
    let output = std::process::Command::new("setpriv")
        .args(["--reuid=65534", "--regid=65534", "--clear-groups"])
        .arg(&program)
        .arg("check")
        .current_dir(dir.path())
        .output()
        .unwrap();
    let why = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(78), "{why}");
    assert!(why.contains("cannot read the file: Permission denied"), "{why}");
}
