//! The configuration: every text is right as a whole, or every problem with it is
//! reported. A right one means the same once its defaults are written out.

use super::{Verdict, hold, is_one_line};
use plumbd::config::effective::effective;
use plumbd::config::model::Model;
use plumbd::config::plan::plan;
use plumbd::config::{Problems, check_text_on};
use plumbd::schema::system::{Account, NotRunnable, System};
use std::path::{Path, PathBuf};

/// Tries plumbd's own function.
pub fn target(bytes: &[u8]) -> Verdict {
    look(bytes, effective)
}

/// Tries a text. `effective` writes a configuration with every default filled in.
pub fn look(text: &[u8], effective: fn(&Model) -> String) -> Verdict {
    let model = match check(text) {
        Ok(model) => model,
        Err(problems) => return told(text, &problems),
    };
    let whole = effective(&model);
    let again = check(whole.as_bytes()).map_err(|problems| format!("with its defaults: {problems}"))?;
    hold!(effective(&again) == whole, "with its defaults it means something else:\n{whole}");
    hold!(plan(&model, &again).is_empty(), "a reload with its defaults would do something");
    Ok(())
}

fn check(text: &[u8]) -> Result<Model, Problems> {
    check_text_on(text, "plumbd.toml", Path::new("/base"), &Anywhere)
}

fn told(text: &[u8], problems: &Problems) -> Verdict {
    hold!(problems.count() > 0, "refused for no reason");
    // Showing them takes longer than all else, so only one in eight is shown.
    if text.len() % 8 != 0 {
        return Ok(());
    }
    let lines = 1 + text.iter().filter(|&&byte| byte == b'\n').count();
    for problem in problems {
        let headline = problems.headline(problem);
        hold!(problem.line <= lines, "line {} of {lines}: {headline}", problem.line);
        hold!(problem.line == 0 || problem.col > 0, "column 0: {headline}");
        hold!(!problem.what.is_empty() && is_one_line(&headline), "{headline:?}");
    }
    hold!(problems.to_string().lines().all(is_one_line), "controls a terminal: {problems:?}");
    Ok(())
}

/// A system on which some accounts, folders and programs exist.
struct Anywhere;

fn there(path: &Path) -> Result<(), String> {
    if path.as_os_str().len() % 7 == 0 { Err("No such file or directory".to_owned()) } else { Ok(()) }
}

impl System for Anywhere {
    fn variable(&self, name: &str) -> Option<String> {
        (name == "HOME").then(|| "/root".to_owned())
    }
    fn is_root(&self) -> bool {
        true
    }
    fn account(&self, name: &str) -> Result<Option<Account>, String> {
        let [home, shell] = ["/", "/bin/sh"].map(PathBuf::from);
        let known = ["", "root", "nobody"].contains(&name);
        Ok(known.then(|| Account { name: "nobody".to_owned(), uid: 65534, gid: 65534, home, shell }))
    }
    fn group(&self, name: &str) -> Result<Option<u32>, String> {
        Ok((name == "nogroup").then_some(65534))
    }
    fn groups(&self, user: &str) -> Result<Vec<u32>, String> {
        Ok(self.account(user)?.map(|account| account.gid).into_iter().collect())
    }
    fn folder(&self, path: &Path) -> Result<(), String> {
        there(path)
    }
    fn program(&self, path: &Path) -> Result<(), NotRunnable> {
        Ok(there(path)?)
    }
    fn regular_file(&self, path: &Path) -> Result<(), String> {
        there(path)
    }
    fn resolve(&self, path: &Path) -> PathBuf {
        path.to_owned()
    }
}
